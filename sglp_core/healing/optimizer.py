"""The optimiser of a healing, and its step."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sglp_core.options import Healing

MOMENTUM = 0.9
LONGEST_GRADIENT = 1.0


def new_optimizer(tensors: Iterable[Tensor], healing: Healing) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101), or stochastic gradient descent with Nesterov momentum, at the highest rate."""
    rate, decay = healing.highest_rate, healing.weight_decay
    if healing.optimizer == "sgd":
        return torch.optim.SGD(tensors, lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(tensors, lr=rate, weight_decay=decay)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Change the tensors by their gradients, clipped to a norm of 1 in all, and free the gradients."""
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    nn.utils.clip_grad_norm_(tensors, LONGEST_GRADIENT)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
