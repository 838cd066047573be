"""Changed tensors beside the one copy of a model: swapped in while something is measured, and out again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# New values by the name of a parameter or buffer, in the type in which it is stored, on any device.
Changes = Mapping[str, Tensor]


@contextmanager
def swapped(model: Any, changes: Changes) -> Iterator[None]:
    """The model with other values for some parameters and buffers, on their device and in their present type."""
    before = {name: tensor_named(model, name).data for name in changes}
    try:
        for name, value in changes.items():
            tensor = tensor_named(model, name)
            assert value.shape == tensor.shape
            tensor.data = value.to(tensor.device, tensor.dtype)
        yield
    finally:
        for name, value in before.items():
            tensor_named(model, name).data = value


@contextmanager
def replaced(model: Any, part: nn.Module, changes: Changes) -> Iterator[None]:
    """A part of the model in which other tensors replace some; gradients flow to them.

    They are used on the device and in the type of those that they replace. Tied parameters change together.
    """
    new = {}
    for name, value in changes.items():
        own = tensor_named(model, name)
        new[id(own)] = value.to(own.device, own.dtype)
    places = [
        (held, name, tensor)
        for module in (part.modules() if new else ())
        for held in (module._parameters, module._buffers)
        for name, tensor in held.items()
        if id(tensor) in new
    ]
    for held, name, tensor in places:
        held[name] = new[id(tensor)]  # type: ignore[assignment]
    try:
        yield
    finally:
        for held, name, tensor in places:
            held[name] = tensor  # type: ignore[assignment]


def apply(model: Any, changes: Changes) -> None:
    """Give parameters and buffers new values for good. Tied parameters change together."""
    for name, value in changes.items():
        tensor = tensor_named(model, name)
        assert (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
        tensor.data = value.to(tensor.device)


def owners(model: Any, parameter: Tensor) -> int:
    """How many modules of the model hold this parameter: more than one where it is tied."""
    return sum(p is parameter for _name, p in model.named_parameters(remove_duplicate=False))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the model's own parameters; `requires_grad` is restored afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)


def in_type_of(parameter: Tensor, value: Tensor) -> Tensor:
    """A value in the type and on the device of a parameter; raises `OverflowError` where its type cannot hold it."""
    typed = value.to(parameter.device, parameter.dtype)
    if not torch.isfinite(typed).all():
        raise OverflowError(f"a repaired weight is not finite in {parameter.dtype}")
    return typed.contiguous()


def tensor_named(model: Any, name: str) -> Tensor:
    """The parameter or buffer of this name."""
    module, _, own_name = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(module), own_name)
    return tensor
