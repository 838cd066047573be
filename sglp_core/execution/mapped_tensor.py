"""Tensors that lie in mapped files, for what may be larger than memory."""

import errno
import math
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

from sglp_core.checkpoints.limits import require_space
from sglp_core.errors import InsufficientStorage


def mapped_tensor(shape: Sequence[int], dtype: torch.dtype, folder: Path, what: str) -> Tensor:
    """Zeros in a new file on the disk of `folder`.

    The file has no name, so it goes with the tensor and with the process, whatever ends that. Raises
    `InsufficientStorage`, which begins with `what`, where the disk has no room for it.
    """
    size = math.prod(shape)
    require_space(folder, size * dtype.itemsize, what)
    with TemporaryFile(dir=folder) as file:
        _allocate(file.fileno(), size * dtype.itemsize, what)
        # By its number. PyTorch keeps no descriptor of it, of which a process may have few.
        return torch.from_file(f"/dev/fd/{file.fileno()}", shared=True, size=size, dtype=dtype).view(*shape)


def _allocate(descriptor: int, size_bytes: int, what: str) -> None:
    """Take the room now: a process that writes to a mapped page that the disk has no room for is ended."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise InsufficientStorage(f"{what} needs {size_bytes:,} bytes, more than the disk has left") from error
