"""Fold an affine map of what a module writes into that module's own parameters; the model keeps its stock form."""

from typing import Any

import torch
from torch import Tensor

from sglp_core.execution.native_types import exact
from sglp_core.execution.weight_changes import in_type_of, owners, tensor_named
from sglp_core.repair.writes.mixtures import along
from sglp_core.repair.writes.residual_writes import CannotFold, LayerWrites, OutputParameter, Write

# How many numbers of a parameter are in float64 at a time.
NUMBERS_AT_ONCE = 2**21


def has_shift(model: Any, write: Write) -> bool:
    """Whether the module has a bias for a constant to go into."""
    if write.mixture is not None:
        return write.mixture.bias is not None
    return getattr(model.get_submodule(write.module), "bias", None) is not None


def channels(model: Any, write: Write) -> int:
    """How many channels leave the module."""
    if write.operation == "norm":
        return len(model.get_submodule(write.module).weight)
    parameter = _output_parameters(model, write)[0]
    return int(tensor_named(model, parameter.name).shape[parameter.axis])


def weight_shape(model: Any, write: Write) -> tuple[int, int]:
    """How many channels enter a projection and how many leave it."""
    assert write.operation in {"linear", "conv1d"}
    weight = model.get_submodule(write.module).weight
    entering, leaving = weight.shape[-1], len(weight)
    return (leaving, entering) if write.operation == "conv1d" else (entering, leaving)


@torch.no_grad()
def fold(model: Any, write: Write, scale: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
    """New parameters with which the module writes `M · scale + shift` to the residual stream instead of `M`.

    `scale` is a number, one a channel `[D]`, or, where the write is not a norm, a matrix `[D, D]`; `shift` is `[D]` and
    needs a bias. Computed in float64. Raises `CannotFold` where other modules use the same parameters.
    """
    _check_owned(model, write)
    assert shift is None or has_shift(model, write)
    bias, reach = _bias(write)
    new: dict[str, Tensor] = {}
    for each in _output_parameters(model, write):
        added = shift / (write.gain * reach) if shift is not None and each.name == bias else None
        new[each.name] = _mapped(tensor_named(model, each.name), each.axis, scale, added)
    if write.operation == "norm":
        assert scale.ndim < 2
        weight = model.get_submodule(write.module).weight
        moved = _beside(weight, scale) * (exact(weight) + write.offset) - write.offset
        new[f"{write.module}.weight"] = in_type_of(weight, moved)
    return new


def shrink(model: Any, writes: LayerWrites, factor: float) -> dict[str, Tensor]:
    """New parameters with which a layer adds `factor` times less to the residual stream."""
    new: dict[str, Tensor] = {}
    for write in writes.modules:
        new |= fold(model, write, 1 / torch.tensor(factor))
    return new


@torch.no_grad()
def fold_change(model: Any, write: Write, change: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
    """New parameters with which the module writes `A · change + shift` more, A being what enters it.

    `change` is `[F, D]` and `shift` `[D]`. Computed in float64. Raises `CannotFold` where other modules use the same
    parameters, and for a norm, which does not mix what enters.
    """
    if write.operation == "norm":
        raise CannotFold(f"{write.module} is a norm, and mixes no channels")
    assert write.mixture is None
    _check_owned(model, write)
    module = model.get_submodule(write.module)
    moved = change if write.operation == "conv1d" else change.T
    weight = torch.empty_like(module.weight, memory_format=torch.contiguous_format)
    rows = max(1, NUMBERS_AT_ONCE // module.weight[0].numel())
    for old, some, piece in zip(*(each.split(rows) for each in (module.weight, moved, weight)), strict=True):
        piece.copy_(in_type_of(old, exact(old) + _beside(old, some) / write.gain))
    new = {f"{write.module}.weight": weight}
    if shift is not None:
        moved = exact(module.bias) + _beside(module.bias, shift) / write.gain
        new[f"{write.module}.bias"] = in_type_of(module.bias, moved)
    return new


def _output_parameters(model: Any, write: Write) -> tuple[OutputParameter, ...]:
    """All parameters that a map of the output maps along their channels."""
    if write.mixture is not None:
        return write.mixture.parameters
    bias = (OutputParameter(_bias(write)[0], 0),) if has_shift(model, write) else ()
    if write.operation == "norm":
        return bias
    return (OutputParameter(f"{write.module}.weight", 1 if write.operation == "conv1d" else 0), *bias)


def _bias(write: Write) -> tuple[str, float]:
    """The name that a bias has, and how much of it the output has."""
    if write.mixture is not None and write.mixture.bias is not None:
        return write.mixture.bias.name, write.mixture.bias_reach
    return f"{write.module}.bias", 1.0


def _mapped(parameter: Tensor, axis: int, scale: Tensor, added: Tensor | None) -> Tensor:
    """The parameter times `scale` plus `added` along an axis, in its own type; computed in pieces across that axis."""
    if parameter.ndim == 1:
        return _mapped_piece(parameter, axis, scale, added)
    across = 0 if axis else 1
    new = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    size = max(1, NUMBERS_AT_ONCE * parameter.shape[across] // parameter.numel())
    for old, piece in zip(parameter.split(size, across), new.split(size, across), strict=True):
        piece.copy_(_mapped_piece(old, axis, scale, added))
    return new


def _mapped_piece(parameter: Tensor, axis: int, scale: Tensor, added: Tensor | None) -> Tensor:
    value, scale = exact(parameter), _beside(parameter, scale)
    if scale.ndim == 2:
        value = (value.movedim(axis, -1) @ scale).movedim(-1, axis)
    else:
        value = value * along(scale, value, axis)
    if added is not None:
        value = value + along(_beside(parameter, added), value, axis)
    return in_type_of(parameter, value)


def _beside(parameter: Tensor, values: Tensor) -> Tensor:
    """The values in float64 where the parameter is in float64."""
    return exact(values).to(exact(parameter).device)


def _check_owned(model: Any, write: Write) -> None:
    if write.mixture is not None:
        names = [each.name for each in write.mixture.parameters]
    else:
        names = [f"{write.module}.{name}" for name, _ in model.get_submodule(write.module).named_parameters()]
    for name in names:
        if owners(model, tensor_named(model, name)) > 1:
            raise CannotFold(f"{name} is shared with another module")
