"""A CIFAR ResNet made narrower by Torch-Pruning (arXiv 2301.12900), for comparison with fewer blocks.

It needs `pip install --no-deps torch-pruning`.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

# Each try halves the distance to the share of filters that is looked for.
TRIES = 12


class _Logits(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def narrower(model: Any, fewer_flops: float) -> tuple[Any, float, float]:
    """A copy of the network without the filters inside of its blocks that have the smallest norms, by group.

    Returns it with the shares of the parameters and of the FLOPs that are gone; the latter is the smallest that reaches
    `fewer_flops`. All blocks lose the same share, since shortcuts without weights tie their outputs together.
    """
    low, high = 0.0, 1.0
    best = None
    for _ in range(TRIES):
        share = (low + high) / 2
        found = _pruned(model, share)
        if found[2] >= fewer_flops:
            best, high = found, share
        else:
            low = share
    assert best is not None
    return best


def _pruned(model: Any, share: float) -> tuple[Any, float, float]:
    import torch_pruning

    wrapped = _Logits(copy.deepcopy(model).cpu().eval())
    image = torch.zeros(1, 3, 32, 32)
    before = torch_pruning.utils.count_ops_and_params(wrapped, image)
    kept = [
        module
        for name, module in wrapped.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and not _inside_a_block(name))
    ]
    torch_pruning.pruner.BasePruner(
        wrapped,
        image,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=kept,
    ).step()
    after = torch_pruning.utils.count_ops_and_params(wrapped, image)
    return wrapped.model, 1 - after[1] / before[1], 1 - after[0] / before[0]


def _inside_a_block(name: str) -> bool:
    return "layer" in name and name.endswith("conv1")
