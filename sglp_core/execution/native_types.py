"""Which floating-point types this hardware has, and computes in without emulating them."""

import time
from functools import cache

import torch
from torch import Tensor

from sglp_core.execution.available_memory import free_bytes

# A product of this size takes milliseconds. An emulated type is 4 to 20 times slower than float32, and a native one is
# faster, so the limit is far from both.
SIZE = 384
REPEATS = 5
SLOWEST = 2.5
HALF_TYPES = (torch.bfloat16, torch.float16)
# The share of the free memory that one step in float64 may take. On a device so much is left for everything else.
EXACT_SHARE = 0.8
LEFT_ON_DEVICE = 2**30


def computing_type(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """The type to compute in with weights of a type: float32 in place of a half type that the device would emulate."""
    return torch.float32 if stored in HALF_TYPES and not _is_native(stored, device.type) else stored


@cache
def _is_native(dtype: torch.dtype, device: str) -> bool:
    """Timed and not asked: what a processor offers says little of what its libraries use."""
    return _seconds(dtype, device) <= SLOWEST * _seconds(torch.float32, device)


def _seconds(dtype: torch.dtype, device: str) -> float:
    """The shortest of some products of two square matrices."""
    left, right = (torch.ones(SIZE, SIZE, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(1 + REPEATS):
        begin = time.perf_counter()
        product = left @ right
        if device != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - begin)
    del product
    return best


def exact_device(device: torch.device) -> torch.device:
    """The device, or the CPU in place of one without float64."""
    # Apple's GPUs have no float64.
    return torch.device("cpu") if device.type == "mps" else device


def exact_device_with_room(needed: int, device: torch.device, what: str) -> torch.device:
    """The device, or else the CPU: the first that has float64, and room for so many bytes.

    Raises `MemoryError` where neither has; `what` begins its message.
    """
    cpu = torch.device("cpu")
    for place in (exact_device(device), cpu):
        free = free_bytes(place) - (0 if place == cpu else LEFT_ON_DEVICE)
        if needed <= EXACT_SHARE * free:
            return place
    raise MemoryError(f"{what} {needed / 2**30:.1f} GiB, and {free_bytes(cpu) / 2**30:.1f} GiB are free")


def exact(values: Tensor) -> Tensor:
    """The values in float64, on their device if that has float64."""
    return values.to(exact_device(values.device), torch.float64)
