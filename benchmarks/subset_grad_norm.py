"""The rule of SGLP's published code for networks of convolutions: which layers of each segment stay.

For every segment, each subset of the size to remove is taken out of a copy of the trained network, whose other segments
stay whole. The subset whose remaining network has the largest gradient norm is removed.
"""

import copy
import random
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn

from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import StackPath
from sglp_core.structure.runs import Segment
from sglp_core.tasks import Batch


def subset_grad_norm(
    model: Any,
    path: StackPath,
    segments: Sequence[Segment],
    count: int,
    batch: Batch,
    subsets: int,
    seed: int = 0,
    on_subset: Callable[[], None] = lambda: None,
) -> tuple[int, ...]:
    """`count` layers to remove, shared out over the segments by their sizes; each segment keeps a layer.

    Segments with more than `subsets` subsets have that many drawn from the seed.
    """
    removed: list[int] = []
    free = [len(segment.layers) - 1 for segment in segments]
    for segment, share in zip(segments, shares(free, count), strict=True):
        tried = list(combinations(segment.layers, share))
        if len(tried) > subsets:
            tried = random.Random(seed).sample(tried, subsets)
        norms = {}
        for subset in tried:
            norms[subset] = _grad_norm(model, path, subset, batch) if len(tried) > 1 else 0.0
            on_subset()
        largest = max(norms, key=norms.__getitem__)
        removed += largest
    return tuple(removed)


def shares(free: Sequence[int], count: int) -> list[int]:
    """`count` shared out in proportion to what is free, by largest remainders.

    Raises `ValueError` for more than there is.
    """
    total = sum(free)
    if count > total:
        raise ValueError(f"{count} layers cannot be removed: the segments have only {total} to give")
    exact = [each * count / total for each in free]
    result = [int(each) for each in exact]
    order = sorted(range(len(free)), key=lambda i: (result[i] - exact[i], i))
    for i in order[: count - sum(result)]:
        result[i] += 1
    return result


def _grad_norm(model: Any, path: StackPath, subset: tuple[int, ...], batch: Batch) -> float:
    """‖∂L/∂θ‖₂ of the whole network without the subset, its batch norms as in training."""
    fresh = copy.deepcopy(model)
    remove_layers(fresh, path, subset)
    fresh.train()
    nn.functional.cross_entropy(fresh(**batch.inputs).logits, batch.labels).backward()
    squares = [p.grad.square().sum() for p in fresh.parameters() if p.grad is not None]
    return float(torch.stack(squares).sum().sqrt())
