"""How glibc gives memory back to the system, for processes that must not hold more than they use."""

import ctypes
import sys

# Their numbers in malloc.h, and what glibc begins with.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THRESHOLD_BYTES = 2**17


def give_back_what_is_freed() -> None:
    """From now on, the memory of all but small tensors goes back to the system as soon as it is freed.

    By default glibc raises the size from which it does so up to 32 MB, as tensors are freed. Those below lie among each
    other on the heap, and the holes between them count towards a limit of the process. Does nothing without glibc.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim"):
        libc.mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        libc.malloc_trim(0)
