"""The memory that a computation takes at most, counted while it runs on fake tensors.

Fake tensors have a shape and no memory, so that a step of training on a large model is counted in seconds.
"""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The C library gets what is at least as large from the system by itself, and the rest from its heap (mallopt(3)).
LARGEST_ON_HEAP = 32 * 2**20


class CountedMemory(TorchDispatchMode):
    """Inside of its `with` statement, the storages that are made are counted until they are freed.

    `peak_bytes` is the most at any time, and `heap_bytes_at_peak` what of it is on the heap; `heap_bytes` is what is
    there now. Those of `existing` are not counted. Boolean masks choose `chosen_share` of what they could: which ones
    depends on values, which fake tensors do not have.
    """

    def __init__(self, existing: Iterable[Tensor], chosen_share: float = 1.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._existing = {tensor.untyped_storage()._cdata for tensor in existing}
        self._chosen_share = chosen_share
        self._alive: dict[int, int] = {}
        self._bytes = 0
        self.heap_bytes = self.peak_bytes = self.heap_bytes_at_peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute, and count the storages of the result."""
        if func is torch.ops.aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            args = (args[0], self._chosen(args[1][0]))
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _chosen(self, mask: Tensor) -> list[Tensor]:
        count = max(1, round(self._chosen_share * mask.numel()))
        return [torch.zeros(count, dtype=torch.long, device=mask.device) for _ in mask.shape]

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._alive or key in self._existing:
            return
        self._alive[key] = storage.nbytes()
        self._add(self._alive[key])
        if self._bytes > self.peak_bytes:
            self.peak_bytes, self.heap_bytes_at_peak = self._bytes, self.heap_bytes
        weakref.finalize(storage, lambda: self._add(-self._alive.pop(key)))

    def _add(self, size: int) -> None:
        self._bytes += size
        if abs(size) < LARGEST_ON_HEAP:
            self.heap_bytes += size
