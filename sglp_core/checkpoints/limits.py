"""Checks of sizes, made before memory or disk space is used."""

import shutil
from pathlib import Path

from sglp_core.errors import InsufficientStorage, UnsafeFormat

# The fewest bits in which a quantised format stores one weight.
FEWEST_BITS = 4


def require_stored(parameters: int, stored_bits: int) -> None:
    """Raise `UnsafeFormat` where the weight files are too small for the parameters, before any is allocated.

    `stored_bits` is the size of the weight files in bits.
    """
    if parameters * FEWEST_BITS > stored_bits:
        raise UnsafeFormat(f"config.json describes {parameters:,} parameters, far more than the weights can hold")


def require_space(directory: Path, needed_bytes: int, what: str) -> None:
    """Raise `InsufficientStorage` where the disk of `directory` has less than `needed_bytes` free."""
    free = free_disk_bytes(directory)
    if free < needed_bytes:
        raise InsufficientStorage(f"{what} needs {needed_bytes:,} bytes, the disk has {free:,} left")


def free_disk_bytes(directory: Path) -> int:
    """What the disk of `directory` has left for this user, in bytes."""
    return shutil.disk_usage(directory).free
