"""What a job's record says about the exception that ended it."""

import errno

from worker.sources.remote_folder import SourceError
from worker.supervision.messages import ChildError


def describe(error: Exception) -> ChildError:
    """Code and message for the user. The details of an unexpected exception are only in the worker's log."""
    # Importing the method imports torch.
    from sglp_core.errors import SGLPError

    if isinstance(error, SourceError):
        return ChildError(code=error.code, message=str(error))
    if isinstance(error, SGLPError) and error.code != SGLPError.code:
        return ChildError(code=error.code, message=str(error))
    if type(error).__name__ == "OutOfMemoryError":
        return ChildError(
            code="gpu_out_of_memory", message="the GPU has not enough memory for this model and batch size"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return ChildError(
            code="out_of_memory", message="the worker has not enough memory for this model and batch size"
        )
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ChildError(code="insufficient_storage", message="the worker's disk is full")
    return ChildError(code="internal", message=f"the job stopped on an unexpected {type(error).__name__}")
