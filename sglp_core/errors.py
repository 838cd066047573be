"""The errors that users of this library can act on, each with the stable code that the service reports."""

from collections.abc import Iterator
from contextlib import contextmanager


class SGLPError(Exception):
    """An error the caller can act on; `code` is stable, the message says what to do."""

    code = "internal"


class ModelNotFound(SGLPError):
    code = "model_not_found"


class SourceForbidden(SGLPError):
    code = "source_forbidden"


class SourceUnreachable(SGLPError):
    code = "source_unreachable"


class UnsafeFormat(SGLPError):
    """The files could run code, or their headers do not match their content."""

    code = "unsafe_format"


class UnsupportedArchitecture(SGLPError):
    code = "unsupported_architecture"


class TargetUnreachable(SGLPError):
    code = "target_unreachable"


class BadLayers(SGLPError):
    """Layers that the request names do not fit the model, or each other; the message begins with a JSON pointer."""

    code = "bad_layers"


class BadCalibration(SGLPError):
    code = "bad_calibration"


class OutOfMemory(SGLPError):
    """The request needs more memory than is available."""

    code = "out_of_memory"


class DeviceOutOfMemory(OutOfMemory):
    """The GPU, or another device that computes, has too little memory."""

    code = "gpu_out_of_memory"


class InsufficientStorage(SGLPError):
    code = "insufficient_storage"


class VerificationFailed(SGLPError):
    """The written artifact is not the model that was planned."""

    code = "verification_failed"


@contextmanager
def as_unsupported(what: str) -> Iterator[None]:
    """Turn any error of a library into `UnsupportedArchitecture`, except running out of memory.

    Libraries raise many types of errors for a model that they cannot build or run. `what` begins the message.
    """
    try:
        yield
    except (SGLPError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            raise
        raise UnsupportedArchitecture(f"{what}: {type(error).__name__}: {error}") from error
