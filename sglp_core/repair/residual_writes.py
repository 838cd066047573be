"""Where a layer writes to the residual stream, found by what its modules do and not by what they are called.

A module is the last write of a layer if whatever is added to its output appears, unchanged but for one factor, in the
layer's output. With that write silenced, the write before it passes the same test. When all writes are silenced, a
pre-norm layer outputs its input (up to a factor), and a post-norm layer, whose last norm makes the whole output,
outputs nothing.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.pytorch_utils import Conv1D

from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output

# Layers are probed in float64, but many norms compute in float32 whatever the type of their input.
TOLERANCE = 1e-5


class CannotFold(Exception):
    """Why a repair cannot be folded into this layer; the message is a reason for the report."""


@dataclass(frozen=True)
class Write:
    """A module whose output times `gain` is added to the residual stream.

    `operation` says how its parameters make the output: `linear` (`nn.Linear`), `conv1d` (transformers' `Conv1D`, whose
    weight is `[in, out]`) or `norm`: (weight + `offset`) · normalised (+ bias), elementwise.
    """

    module: str
    gain: float
    operation: Literal["linear", "conv1d", "norm"]
    offset: float = 0.0


@dataclass(frozen=True)
class LayerWrites:
    """The writes of one layer, the last first; `whole` where the last one alone is the layer's output (post-norm)."""

    modules: tuple[Write, ...]
    whole: bool


@dataclass(frozen=True)
class LayerCall:
    """The arguments of one call of a layer."""

    args: tuple[Any, ...]
    kwargs: KeywordArguments


@torch.no_grad()
def find_writes(layer: nn.Module, name: str, call: LayerCall) -> LayerWrites:
    """The writes of a layer, whose name in the model is `name`. Raises `CannotFold` where not all are understood."""
    try:
        probe = copy.deepcopy(layer).double()
        args, kwargs = pytree.tree_map(_doubled, (call.args, call.kwargs))
        call = LayerCall(args, kwargs)
        before, after = layer_input(args, kwargs), _output(probe, call)
    except Exception as error:
        # Any family's own code runs here, in a type it may never have been run in.
        raise CannotFold(f"{name} cannot be probed: {error}") from error
    silenced: list[str] = []
    writes: list[Write] = []
    for module, seen in reversed(_candidates(probe, call, after)):
        with _silent(probe, silenced):
            gain = _gain(probe, module, call)
            if gain:
                writes.append(_described(probe.get_submodule(module), f"{name}.{module}", gain, seen))
                silenced.append(module)
    if not writes:
        raise CannotFold(f"no module of {name} adds its output unchanged to the layer's output")
    with _silent(probe, silenced[:1]):
        if len(writes) == 1 and not _output(probe, call).any():
            return LayerWrites(tuple(writes), whole=True)
    with _silent(probe, silenced):
        rest = _output(probe, call)
    factor = torch.sum(rest * before) / torch.sum(before * before)
    if not factor or _differ(rest, factor * before):
        raise CannotFold(f"{name} does more to the residual stream than add to it")
    return LayerWrites(tuple(writes), whole=False)


@torch.no_grad()
def find_projection(layer: nn.Module, name: str, call: LayerCall, norm: str) -> Write:
    """The projection whose output that norm of the layer takes: the last write of the layer without the norm.

    Raises `CannotFold` where there is none, or where it is no projection.
    """
    probe = copy.deepcopy(layer).double()
    args, kwargs = pytree.tree_map(_doubled, (call.args, call.kwargs))
    call = LayerCall(args, kwargs)
    probe.set_submodule(norm, nn.Identity())
    for module, seen in reversed(_candidates(probe, call, _output(probe, call))):
        gain = _gain(probe, module, call)
        if gain:
            projection = _described(probe.get_submodule(module), f"{name}.{module}", gain, seen)
            if projection.operation == "norm":
                break
            return projection
    raise CannotFold(f"no projection of {name} goes straight into {norm}")


def _candidates(layer: nn.Module, call: LayerCall, after: Tensor) -> list[tuple[str, Tensor]]:
    """Leaf modules with weights whose output has the shape of the layer's, with their input, in the order they run."""
    ran: list[tuple[str, Tensor]] = []
    names = {module: name for name, module in layer.named_modules() if name}

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        fits = isinstance(output, Tensor) and output.shape[-1] == after.shape[-1] and output.numel() == after.numel()
        if fits and args:
            ran.append((names[module], args[0]))

    leaves = [m for m in names if not list(m.children()) and list(m.parameters())]
    handles = [leaf.register_forward_hook(record) for leaf in leaves]
    try:
        _output(layer, call)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _gain(layer: nn.Module, module: str, call: LayerCall) -> float:
    """By which factor what is added to a module's output appears in the layer's; 0 where more than that happens."""
    added: list[Tensor] = []

    def add(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=torch.Generator().manual_seed(0), dtype=output.dtype)
        added.append(noise.to(output.device) * (output.std() + 1))
        return output + added[-1]

    before = _output(layer, call)
    handle = layer.get_submodule(module).register_forward_hook(add)
    try:
        change = _output(layer, call) - before
    finally:
        handle.remove()
    if len(added) != 1:
        return 0.0
    noise = added[0].view(change.shape)
    gain = torch.sum(change * noise) / torch.sum(noise * noise)
    return 0.0 if abs(gain) < TOLERANCE or _differ(change, gain * noise) else float(gain)


def _described(module: nn.Module, name: str, gain: float, seen: Tensor) -> Write:
    if isinstance(module, nn.Linear):
        return Write(name, gain, "linear")
    if isinstance(module, Conv1D):
        return Write(name, gain, "conv1d")
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor) and weight.ndim == 1:
        for offset in (0.0, 1.0):
            flat = copy.deepcopy(module)
            flat.get_parameter("weight").fill_(-offset)
            if not _differ(flat(seen), torch.zeros_like(seen) if bias is None else bias.expand_as(seen)):
                return Write(name, gain, "norm", offset)
    raise CannotFold(f"{name} is a {type(module).__name__}, into which no repair is folded")


@contextmanager
def _silent(layer: nn.Module, modules: list[str]) -> Iterator[None]:
    handles = [
        layer.get_submodule(name).register_forward_hook(lambda _m, _args, output: torch.zeros_like(output))
        for name in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output(layer: nn.Module, call: LayerCall) -> Tensor:
    return layer_output(layer(*call.args, **call.kwargs))


def _differ(measured: Tensor, expected: Tensor) -> bool:
    scale = max(float(expected.abs().max()), TOLERANCE)
    return not float((measured - expected).abs().max()) <= TOLERANCE * scale


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
