"""Models larger than what holds them: refused before memory or disk is taken."""

import shutil
from pathlib import Path

from sglp_core.errors import InsufficientStorage, UnsafeFormat

# Of a quantised weight.
FEWEST_BITS = 4


def require_stored(parameters: int, stored_bits: int) -> None:
    """Refuse a model of far more parameters than its weights can hold, before memory is taken for them."""
    if parameters * FEWEST_BITS > stored_bits:
        raise UnsafeFormat(f"config.json describes {parameters:,} parameters, far more than the weights can hold")


def require_space(directory: Path, needed_bytes: int, what: str) -> None:
    """Refuse early where the disk cannot hold what is about to be written."""
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise InsufficientStorage(f"{what} needs {needed_bytes:,} bytes, the disk has {free:,} left")
