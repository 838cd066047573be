"""Decide whether a model is loaded or streamed from disk, by its size and the memory that this process may use."""

from pathlib import Path

import psutil
import torch

from sglp_core.checkpoints.safetensors_header import weight_files
from sglp_core.options import Memory

try:
    import resource
except ImportError:  # Windows has no limits of this kind.
    resource = None  # type: ignore[assignment]

# The rest of the memory is for activations, the gradients of a layer, and the libraries.
WEIGHTS_SHARE = 0.6
CGROUPS = Path("/sys/fs/cgroup")


def must_stream(memory: Memory, directory: Path) -> bool:
    """Whether the weights of a model directory stay on disk; with `auto`, where they would fill most of the memory."""
    if memory != "auto":
        return memory == "streaming"
    weights = sum(file.stat().st_size for file in weight_files(directory))
    return weights > WEIGHTS_SHARE * available_bytes()


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


def _cgroup_limits() -> list[tuple[int, int]]:
    """The memory limits of this process's control group and of all groups above it, for both versions of cgroups.

    Each is with what this process uses of it.
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
    used = int(psutil.Process().memory_info().rss)
    return [(int(text), used) for file in files if file.is_file() and (text := file.read_text().strip()).isdigit()]


def _resource_limits() -> list[tuple[int, int]]:
    """The limits of this process, each with what counts towards it, which is not what is resident."""
    if resource is None:
        return []
    used = psutil.Process().memory_info()
    counted = {resource.RLIMIT_AS: used.vms, resource.RLIMIT_DATA: getattr(used, "data", used.rss)}
    limits = ((resource.getrlimit(kind)[0], int(size)) for kind, size in counted.items())
    return [(limit, size) for limit, size in limits if limit != resource.RLIM_INFINITY]
