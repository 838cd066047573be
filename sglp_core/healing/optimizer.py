"""The optimiser of a healing."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sglp_core.options import Healing

MOMENTUM = 0.9


def new_optimizer(tensors: Iterable[Tensor], healing: Healing) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), or stochastic gradient descent with Nesterov momentum, at the highest rate."""
    rate, decay = healing.highest_rate, healing.weight_decay
    if healing.optimizer == "sgd":
        return torch.optim.SGD(tensors, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(tensors, lr=rate, weight_decay=decay)
