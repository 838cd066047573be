"""A few changed tensors beside the one copy of the model: swapped in while something is measured, and out again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# New values by the name of a parameter or buffer, in its own type and on its device.
Changes = Mapping[str, Tensor]


@contextmanager
def swapped(model: Any, changes: Changes) -> Iterator[None]:
    """The model with other values for some parameters and buffers; every tensor that did not change is shared."""
    before = {name: held(model, name).data for name in changes}
    apply(model, changes)
    try:
        yield
    finally:
        apply(model, before)


def apply(model: Any, changes: Changes) -> None:
    """Give parameters and buffers new values for good. Tied parameters change together."""
    for name, value in changes.items():
        tensor = held(model, name)
        assert (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
        tensor.data = value


def owners(model: Any, parameter: Tensor) -> int:
    """How many places of the model use this very parameter."""
    return sum(p is parameter for _name, p in model.named_parameters(remove_duplicate=False))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the model's own parameters; everything is put back afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)


def in_type_of(parameter: Tensor, value: Tensor) -> Tensor:
    """A value as that parameter would hold it; raises `OverflowError` where its type cannot."""
    typed = value.to(parameter.device, parameter.dtype)
    if not torch.isfinite(typed).all():
        raise OverflowError(f"a repaired weight is not finite in {parameter.dtype}")
    return typed.contiguous()


def held(model: Any, name: str) -> Tensor:
    """The parameter or buffer of this name."""
    module, _, own_name = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(module), own_name)
    return tensor
