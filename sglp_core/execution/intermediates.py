"""Hidden states between layers: on the device while they have room there, then in CPU memory, then in mapped files."""

import weakref
from pathlib import Path

import torch
from torch import Tensor

from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.mapped_tensor import mapped_tensor

# Shares of the memory that is free when the store is made.
DEVICE_SHARE = 0.3
MEMORY_SHARE = 0.4


class Intermediates:
    """Keeps tensors within a budget; files are in `scratch`, and each goes when its tensor is freed.

    With `in_files` no memory is used, for models whose weights do not fit there. Without `on_device`, none of the
    device's memory is used, for those whose weights do not fit on it.
    """

    def __init__(self, device: torch.device, scratch: Path, *, in_files: bool = False, on_device: bool = True) -> None:
        self._scratch = scratch
        self._left = {"cpu": 0 if in_files else int(MEMORY_SHARE * free_bytes(torch.device("cpu")))}
        if device.type != "cpu" and on_device:
            self._left[device.type] = int(DEVICE_SHARE * free_bytes(device))

    @property
    def room(self) -> int:
        """The bytes that may still be kept in memory."""
        return sum(self._left.values())

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor itself, or a copy of it where there is room for it; on the CPU or the device."""
        tensor = tensor.detach()
        for place in dict.fromkeys([tensor.device.type, "cpu"]):
            size = tensor.nbytes
            if size <= self._left.get(place, 0):
                # A slice of something larger would keep all of that.
                kept = tensor.to(place)
                if kept.untyped_storage().nbytes() > size:
                    kept = kept.clone()
                self._left[place] -= size
                weakref.finalize(kept.untyped_storage(), self._give_back, place, size)
                return kept
        return mapped_tensor(tensor.shape, tensor.dtype, self._scratch, "a tensor without room in memory").copy_(tensor)

    def _give_back(self, place: str, size: int) -> None:
        self._left[place] += size
