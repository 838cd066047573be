"""Find where a layer writes to the residual stream, by what its modules do and not by what they are called.

A module is the last write of a layer if whatever is added to its output appears, unchanged but for one factor, in the
layer's output. With that write silenced, the write before it passes the same test. When all writes are silenced, a
pre-norm layer outputs its input (up to a factor), and a post-norm layer, whose last norm makes the whole output,
outputs nothing. Where single projections and norms do not explain a layer so, blocks of experts are writes, too.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.pytorch_utils import Conv1D

from sglp_core.execution.native_types import exact_device_with_room
from sglp_core.repair.writes.mixtures import find_mixture
from sglp_core.repair.writes.residual_writes import CannotFold, LayerCall, LayerWrites, Write
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output

# Layers are probed in float64, but many norms and routers compute in float32 whatever the type of their input.
TOLERANCE = 1e-5


@torch.no_grad()
def find_writes(layer: nn.Module, name: str, call: LayerCall) -> LayerWrites:
    """The writes of a layer, whose name in the model is `name`. Raises `CannotFold` where not all are understood."""
    layer, call = _exact_copy(layer, name, call)
    try:
        return _writes(layer, name, call, blocks=False)
    except CannotFold:
        return _writes(layer, name, call, blocks=True)


@torch.no_grad()
def find_projection(layer: nn.Module, name: str, call: LayerCall, norm: str) -> Write:
    """The projection whose output that norm of the layer takes: the last write of the layer without the norm.

    Raises `CannotFold` where there is none, or where it is no projection.
    """
    layer, call = _exact_copy(layer, name, call)
    layer.set_submodule(norm, nn.Identity())
    for module, seen in reversed(_candidates(layer, call, blocks=False)):
        gain = _gain(layer, module, call)
        if gain:
            projection = _described(layer.get_submodule(module), f"{name}.{module}", gain, seen.args[0])
            if projection is None or projection.operation == "norm":
                break
            return projection
    raise CannotFold(f"no projection of {name} goes straight into {norm}")


def _exact_copy(layer: nn.Module, name: str, call: LayerCall) -> tuple[nn.Module, LayerCall]:
    """The layer in float64 with arguments in that type, which it can be called with; on the CPU where only that has
    room for it."""
    try:
        device = _place_of_copy(layer)
        # Each tensor is copied once, into the other type.
        tensors = [*layer.parameters(), *layer.buffers()]
        exact = copy.deepcopy(layer, {id(tensor): _doubled_like(tensor, device) for tensor in tensors})
        for module in exact.modules():
            # The other kernels of transformers' experts know no float64.
            config: Any = getattr(module, "config", None)
            if hasattr(config, "_experts_implementation"):
                config._experts_implementation = "eager"
        exact_call = LayerCall(*pytree.tree_map(partial(_doubled, device=device), (call.args, call.kwargs)))
        _output(exact, exact_call)
    except Exception as error:
        # Any family's own code runs here, in a type it may never have been run in.
        raise CannotFold(f"{name} cannot be probed: {error}") from error
    return exact, exact_call


def _place_of_copy(layer: nn.Module) -> torch.device:
    """Where there is room for a float64 copy of the layer, and two of its largest parameter. Raises `MemoryError`."""
    sizes = {each: each.numel() for each in layer.parameters()}
    needed = 8 * (sum(sizes.values()) + 2 * max(sizes.values(), default=0))
    device = next((each.device for each in sizes), torch.device("cpu"))
    return exact_device_with_room(needed, device, "a copy in float64 takes")


def _writes(layer: nn.Module, name: str, call: LayerCall, *, blocks: bool) -> LayerWrites:
    silenced: list[str] = []
    writes: list[Write] = []
    reasons: list[str] = []
    for module, seen in reversed(_candidates(layer, call, blocks=blocks)):
        with _silent(layer, silenced):
            gain = _gain(layer, module, call)
            if not gain:
                continue
            try:
                write = _understood(layer, module, gain, call, seen)
            except CannotFold as reason:
                reasons.append(f"{name}.{reason}")
                continue
        if write is not None:
            writes.append(_in_model(write, f"{name}."))
            silenced.append(module)
    if not writes:
        reasons.append(f"no module of {name} adds its output unchanged to the layer's output")
        raise CannotFold(reasons[0])
    with _silent(layer, silenced[:1]):
        if len(writes) == 1 and not _output(layer, call).any():
            return LayerWrites(tuple(writes), whole=True)
    with _silent(layer, silenced):
        rest = _output(layer, call)
    before = layer_input(call.args, call.kwargs)
    factor = torch.sum(rest * before) / torch.sum(before * before)
    if not factor or _differ(rest, factor * before):
        reasons.append(f"{name} does more to the residual stream than add to it")
        raise CannotFold(reasons[0])
    return LayerWrites(tuple(writes), whole=False)


def _candidates(layer: nn.Module, call: LayerCall, *, blocks: bool) -> list[tuple[str, LayerCall]]:
    """Modules with weights whose output has the shape of the layer's, with their call, in the order they end.

    These are leaf modules alone, or with `blocks` also modules that have others in them.
    """
    ran: list[tuple[str, LayerCall]] = []
    names = {module: name for name, module in layer.named_modules() if name}
    after = _output(layer, call)

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) and output else output
        fits = isinstance(hidden, Tensor) and hidden.shape[-1] == after.shape[-1] and hidden.numel() == after.numel()
        if fits and args:
            ran.append((names[module], LayerCall(args, kwargs)))

    handles = [
        module.register_forward_hook(record, with_kwargs=True)
        for module in names
        if (blocks or not list(module.children())) and list(module.parameters())
    ]
    try:
        _output(layer, call)
    finally:
        for handle in handles:
            handle.remove()
    return ran


def _gain(layer: nn.Module, module: str, call: LayerCall) -> float:
    """By which factor what is added to a module's output appears in the layer's; 0 where more than that happens."""
    added: list[Tensor] = []

    def add(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = layer_output(output)
        noise = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0), dtype=hidden.dtype)
        added.append(noise.to(hidden.device) * (hidden.std() + 1))
        return _with_hidden(output, hidden + added[-1])

    before = _output(layer, call)
    handle = layer.get_submodule(module).register_forward_hook(add)
    try:
        change = _output(layer, call) - before
    finally:
        handle.remove()
    if len(added) != 1 or added[0].numel() != change.numel():
        return 0.0
    noise = added[0].view(change.shape)
    gain = torch.sum(change * noise) / torch.sum(noise * noise)
    return 0.0 if abs(gain) < TOLERANCE or _differ(change, gain * noise) else float(gain)


def _understood(layer: nn.Module, module: str, gain: float, call: LayerCall, seen: LayerCall) -> Write | None:
    """How the parameters of a module make its output; `call` is that of the layer, `seen` that of the module.

    Names are those in the layer. None for a block that is no mixture, or in which a single projection is the write.
    Raises `CannotFold` for a module that has no others in it and is not understood.
    """
    inner = layer.get_submodule(module)
    write = _described(inner, module, gain, seen.args[0])
    if write is not None:
        return write
    mixture = find_mixture(inner, f"{module}.", seen, TOLERANCE)
    if mixture is None:
        if list(inner.children()):
            return None
        raise CannotFold(f"{module} is a {type(inner).__name__}, into which no repair is folded")
    owners = {each.name.rpartition(".")[0] for each in mixture.parameters}
    for owner in sorted(owners):
        projection = layer.get_submodule(owner)
        own_gain = _gain(layer, owner, call) if isinstance(projection, (nn.Linear, Conv1D)) else 0.0
        if own_gain and len(owners) == 1:
            return None
        if own_gain:
            mixture = replace(mixture, shared=_described(projection, owner, own_gain, seen.args[0]))
    return Write(module, gain, "mixture", mixture=mixture)


def _in_model(write: Write, prefix: str) -> Write:
    """The same write with the names that its module and parameters have in the model."""
    mixture = write.mixture
    if mixture is not None:
        mixture = replace(
            mixture,
            parameters=tuple(replace(each, name=prefix + each.name) for each in mixture.parameters),
            bias=mixture.bias and replace(mixture.bias, name=prefix + mixture.bias.name),
            shared=mixture.shared and _in_model(mixture.shared, prefix),
        )
    return replace(write, module=prefix + write.module, mixture=mixture)


def _described(module: nn.Module, name: str, gain: float, seen: Tensor) -> Write | None:
    """The write of a single projection or norm; None for another module."""
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
    return None


@contextmanager
def _silent(layer: nn.Module, modules: list[str]) -> Iterator[None]:
    handles = [
        layer.get_submodule(name).register_forward_hook(
            lambda _m, _args, output: _with_hidden(output, torch.zeros_like(layer_output(output)))
        )
        for name in modules
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    """The output of a module with other hidden states."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _output(layer: nn.Module, call: LayerCall) -> Tensor:
    return layer_output(layer(*call.args, **call.kwargs))


def _differ(measured: Tensor, expected: Tensor) -> bool:
    scale = max(float(expected.abs().max()), TOLERANCE)
    return not float((measured - expected).abs().max()) <= TOLERANCE * scale


def _doubled_like(tensor: Tensor, device: torch.device) -> Tensor:
    # A copy also where the type is this one already: what is searched is changed on the way.
    copied = tensor.detach().to(device, torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)
    return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied


def _doubled(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, torch.float64 if value.is_floating_point() else value.dtype)
