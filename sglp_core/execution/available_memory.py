"""The memory that this process may still use, and how the system gets back what is freed."""

import ctypes
import sys
from pathlib import Path

import psutil
import torch

try:
    import resource
except ImportError:  # Windows has no limits of this kind.
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/sys/fs/cgroup")
# Two settings of glibc by their numbers in malloc.h, and the size that it begins with.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THRESHOLD_BYTES = 2**17


def available_bytes() -> int:
    """The memory in bytes that this process may still use: what the machine has free, or less where a control group or
    a resource limit allows less."""
    left = [limit - used for limit, used in (*_cgroup_limits(), *_resource_limits())]
    return max(0, min([int(psutil.virtual_memory().available), *left]))


def free_bytes(device: torch.device) -> int:
    """The memory in bytes that this process may still use on a device."""
    if device.type == "cpu":
        return available_bytes()
    # What the allocator keeps for later is as good as free.
    kept: int = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
    free, total = torch.accelerator.get_memory_info(device)
    if device.type == "cuda":
        # A cap on this process does not show in what the device has free.
        capped = torch.cuda.get_per_process_memory_fraction(torch.accelerator.current_device_index()) * total
        free = min(free, max(0, int(capped) - torch.accelerator.memory_reserved(device)))
    return kept + int(free)


def give_back_memory() -> None:
    """Give memory that is not used, and that the allocators would keep, back to the device and to the system."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    libc = _glibc()
    if libc:
        # The holes in its heap.
        libc.malloc_trim(0)


def give_back_what_is_freed() -> None:
    """From now on, the memory of all but small tensors goes back to the system as soon as it is freed.

    By default glibc raises the size from which it does so up to 32 MB, as tensors are freed. Those below lie among each
    other on the heap, and the holes between them count towards a limit of the process. Does nothing without glibc.
    """
    libc = _glibc()
    if libc:
        libc.mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


def _cgroup_limits() -> list[tuple[int, int]]:
    """The memory limits of this process's control group and of all groups above it, for both versions of cgroups.

    Each is with what this process takes of it.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if controllers == "":
                files.append(CGROUPS / group / "memory.max")
            elif "memory" in controllers.split(","):
                files.append(CGROUPS / "memory" / group / "memory.limit_in_bytes")
    memory = psutil.Process().memory_info()
    # Without the pages of mapped files, which go where others need the memory.
    used = int(memory.rss - getattr(memory, "shared", 0))
    return [(int(text), used) for file in files if file.is_file() and (text := file.read_text().strip()).isdigit()]


def _resource_limits() -> list[tuple[int, int]]:
    """The limits of this process, each with what counts towards it, which is not what is resident."""
    if resource is None:
        return []
    used = psutil.Process().memory_info()
    counted = {resource.RLIMIT_AS: used.vms, resource.RLIMIT_DATA: getattr(used, "data", used.rss)}
    limits = ((resource.getrlimit(kind)[0], int(size)) for kind, size in counted.items())
    return [(limit, size) for limit, size in limits if limit != resource.RLIM_INFINITY]
