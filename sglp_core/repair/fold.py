"""Fold an affine map of what a module writes into that module's own parameters; the model keeps its stock form."""

from typing import Any

import torch
from torch import Tensor

from sglp_core.removal.weight_changes import in_type_of, owners
from sglp_core.repair.residual_writes import CannotFold, Write


def has_shift(model: Any, write: Write) -> bool:
    """Whether the module has a bias for a constant to go into."""
    return getattr(model.get_submodule(write.module), "bias", None) is not None


def weight_shape(model: Any, write: Write) -> tuple[int, int]:
    """How many channels enter the module and how many leave it; of a norm both are the same."""
    weight = model.get_submodule(write.module).weight
    entering, leaving = weight.shape[-1], len(weight)
    return (leaving, entering) if write.operation == "conv1d" else (entering, leaving)


@torch.no_grad()
def fold(model: Any, write: Write, scale: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
    """New parameters with which the module writes `M · scale + shift` to the residual stream instead of `M`.

    `scale` is a number, one a channel `[D]`, or, where the write is not a norm, a matrix `[D, D]`; `shift` is `[D]` and
    needs a bias. Computed in float64. Raises `CannotFold` where other modules use the same parameters.
    """
    module = _owned(model, write)
    weight, bias = module.weight.detach().double(), getattr(module, "bias", None)
    scale = scale.to(weight.device, torch.float64)
    matrix = scale.ndim == 2
    if write.operation == "norm":
        assert not matrix
        weight = scale * (weight + write.offset) - write.offset
    elif write.operation == "conv1d":
        weight = weight @ scale if matrix else weight * scale
    else:
        weight = scale.T @ weight if matrix else scale.reshape(-1, 1) * weight
    new = {f"{write.module}.weight": in_type_of(module.weight, weight)}
    if bias is not None:
        old = bias.detach().double()
        moved = old @ scale if matrix else old * scale
        if shift is not None:
            moved = moved + shift.to(moved) / write.gain
        new[f"{write.module}.bias"] = in_type_of(bias, moved)
    else:
        assert shift is None
    return new


@torch.no_grad()
def fold_change(model: Any, write: Write, change: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
    """New parameters with which the module writes `A · change + shift` more, A being what enters it.

    `change` is `[F, D]` and `shift` `[D]`. Computed in float64. Raises `CannotFold` where other modules use the same
    parameters, and for a norm, which does not mix what enters.
    """
    module = _owned(model, write)
    if write.operation == "norm":
        raise CannotFold(f"{write.module} is a norm, and mixes no channels")
    moved = (change if write.operation == "conv1d" else change.T) / write.gain
    new = {
        f"{write.module}.weight": in_type_of(
            module.weight, module.weight.detach().double() + moved.to(module.weight.device)
        )
    }
    if shift is not None:
        new[f"{write.module}.bias"] = in_type_of(
            module.bias, module.bias.detach().double() + shift.to(module.bias.device) / write.gain
        )
    return new


def _owned(model: Any, write: Write) -> Any:
    module = model.get_submodule(write.module)
    for name, parameter in module.named_parameters():
        if owners(model, parameter) > 1:
            raise CannotFold(f"{write.module}.{name} is shared with another module")
    return module
