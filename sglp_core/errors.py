"""Every way the method can refuse, each with one code of the service's closed list."""

from collections.abc import Iterator
from contextlib import contextmanager


class SGLPError(Exception):
    """A refusal the caller can act on; `code` is stable, the message says what to do."""

    code = "internal"


class ModelNotFound(SGLPError):
    code = "model_not_found"


class SourceForbidden(SGLPError):
    code = "source_forbidden"


class SourceUnreachable(SGLPError):
    code = "source_unreachable"


class UnsafeFormat(SGLPError):
    """The files could run code, or lie about what they hold."""

    code = "unsafe_format"


class UnsupportedArchitecture(SGLPError):
    code = "unsupported_architecture"


class TargetUnreachable(SGLPError):
    code = "target_unreachable"


class BadCalibration(SGLPError):
    code = "bad_calibration"


class OutOfMemory(SGLPError):
    """What was asked for needs more memory than there is."""

    code = "out_of_memory"


class InsufficientStorage(SGLPError):
    code = "insufficient_storage"


class VerificationFailed(SGLPError):
    """The written artifact is not the model that was planned."""

    code = "verification_failed"


@contextmanager
def as_unsupported(what: str) -> Iterator[None]:
    """Whatever a library raises about a model is `UnsupportedArchitecture`; a want of memory stays one."""
    try:
        yield
    except (SGLPError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            raise
        raise UnsupportedArchitecture(f"{what}: {type(error).__name__}: {error}") from error
