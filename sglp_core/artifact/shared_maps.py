"""Let safetensors map weight files shared and read-only, so that they do not count as allocated memory."""

import mmap
import os
import warnings
from pathlib import Path

import torch


def map_weights_shared() -> None:
    """For the rest of this process, `safe_open` maps files so; whoever writes to a tensor of theirs is ended.

    safetensors has PyTorch map them privately and writably, so that a limit (RLIMIT_DATA) counts all their bytes as if
    they were copied, although no page is.
    """
    torch.UntypedStorage.from_file = _from_file  # type: ignore[method-assign]


def _from_file(filename: str | os.PathLike[str], shared: bool, nbytes: int) -> torch.UntypedStorage:  # noqa: ARG001
    # `shared` is what safetensors asks for by this name.
    with Path(filename).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), nbytes, prot=mmap.PROT_READ)
    with warnings.catch_warnings():
        # PyTorch knows no tensors that must not be written to.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapped, dtype=torch.uint8).untyped_storage()
