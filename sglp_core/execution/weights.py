"""Where weights lie, and how those of one layer get to the device that computes, in the type that it computes in.

The field calls it *onloading* (accelerate): a layer's weights are on the device only while the layer runs. Algorithms
do not see where weights lie; only their time and memory depend on it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.native_types import HALF_TYPES, computing_type
from sglp_core.execution.weight_changes import tensor_named

# A layer by its index; None is everything outside of the layers: embeddings, last norm and head.
Group = int | None

# The share of the device's free memory that the weights of the next layer may take while one is computed with.
AHEAD_SHARE = 0.4


class Weights(Protocol):
    """The weights of one model.

    `device` computes, in `dtype` where the weights have the type of most. `bytes_onloaded` counts what was brought to
    the device, of `total_bytes`; both are 0 where all weights are there.
    """

    device: torch.device
    dtype: torch.dtype
    total_bytes: int

    @property
    def bytes_onloaded(self) -> int: ...
    @property
    def resident(self) -> bool:
        """Whether all weights are always on the device in the type that is computed in."""

    @property
    def in_memory(self) -> bool:
        """Whether the weights are in some memory, and not on disk."""

    def onloaded(self, group: Group) -> Any:
        """A context manager: the group's weights are on the device inside the `with` statement."""

    def prefetch(self, group: Group) -> None:
        """Begin to bring a group nearer, while another one is computed with."""

    def stored_type(self, name: str) -> torch.dtype:
        """The type in which a parameter or buffer is stored, which changes of it are rounded to."""

    def as_stored(self) -> "Weights":
        """The same weights, computed with in the types that they are stored in."""


class ResidentWeights:
    """All weights on the device, as they are stored."""

    resident = in_memory = True

    def __init__(self, model: Any) -> None:
        self._model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.bytes_onloaded = self.total_bytes = 0

    @contextmanager
    def onloaded(self, _group: Group) -> Iterator[None]:
        yield

    def prefetch(self, group: Group) -> None: ...

    def stored_type(self, name: str) -> torch.dtype:
        return tensor_named(self._model, name).dtype

    def as_stored(self) -> Weights:
        return self


class OnloadedWeights:
    """Weights that lie in CPU memory or on disk, and are brought to the device group by group.

    `home` has the groups' tensors in CPU memory while it `holds` them.
    """

    resident = False

    def __init__(self, model: Any, layers: nn.ModuleList, home: "Home", device: torch.device) -> None:
        self._model, self._layers, self._home = model, layers, home
        self.device = device
        self.dtype = computing_type(home.dtype, device)
        self.total_bytes = home.total_bytes
        self._converts = True
        self._inside: set[Group] = set()
        self._stored: dict[str, torch.dtype] = {}
        self._stream = torch.Stream(device) if device.type != "cpu" else None
        self._coming: dict[Group, list[Tensor]] = {}

    @property
    def bytes_onloaded(self) -> int:
        return self._home.bytes_onloaded

    @property
    def in_memory(self) -> bool:
        return self._home.in_memory

    @contextmanager
    def onloaded(self, group: Group) -> Iterator[None]:
        if group in self._inside:
            yield
            return
        self._inside.add(group)
        modules = list(self._modules(group))
        at_home = [(module, name, tensor) for module in modules for name, tensor in _own_tensors(module)]
        try:
            with self._home.holds(group, modules):
                self._move(group, modules)
            yield
        finally:
            self._inside.discard(group)
            for module, name, tensor in at_home:
                _put(module, name, tensor)

    def prefetch(self, group: Group) -> None:
        outside_of_all = group is not None and group not in range(len(self._layers))
        if outside_of_all or group in self._inside or group in self._coming:
            return
        self._home.prefetch(group)
        if self._stream is not None and self._home.in_memory:
            tensors = _unique(tensor for module in self._modules(group) for _, tensor in _own_tensors(module))
            # One group at a time: what was expected and not used would only take memory.
            self._coming.clear()
            if sum(tensor.nbytes for tensor in tensors) > AHEAD_SHARE * free_bytes(self.device):
                return
            with self._stream:
                self._coming[group] = [tensor.to(self.device, non_blocking=True) for tensor in tensors]

    def stored_type(self, name: str) -> torch.dtype:
        return self._stored.get(name) or tensor_named(self._model, name).dtype

    def as_stored(self) -> Weights:
        other = OnloadedWeights(self._model, self._layers, self._home, self.device)
        other.dtype, other._converts = self._home.dtype, False
        return other

    def _modules(self, group: Group) -> Iterable[nn.Module]:
        if group is not None:
            return self._layers[group].modules()
        inside = {id(module) for module in self._layers.modules()}
        return (module for module in self._model.modules() if id(module) not in inside)

    def _move(self, group: Group, modules: Iterable[nn.Module]) -> None:
        """Give the modules copies of their tensors on the device; what is tied stays tied.

        One after the other, so that a home that holds them only for now frees each once it is copied.
        """
        paths = {id(module): path for path, module in self._model.named_modules()}
        places: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in modules:
            for name, tensor in _own_tensors(module):
                places.setdefault(id(tensor), []).append((module, name))
        coming = self._coming.pop(group, None)
        if coming is not None and self._stream is not None:
            torch.accelerator.current_stream().wait_stream(self._stream)
        for number, held_by in enumerate(places.values()):
            module, name = held_by[0]
            tensor = _own_tensor(module, name)
            near = coming[number] if coming is not None else tensor.to(self.device, non_blocking=True)
            if coming is not None:
                # Its memory must not be used again on the other stream before this one is through with it.
                near.record_stream(torch.accelerator.current_stream())
            copy = near.to(self._type(tensor))
            moved = nn.Parameter(copy, False) if isinstance(tensor, nn.Parameter) else copy
            self._home.bytes_onloaded += tensor.nbytes
            for module, name in held_by:
                self._stored[f"{paths[id(module)]}.{name}"] = tensor.dtype
                _put(module, name, moved)

    def _type(self, tensor: Tensor) -> torch.dtype:
        return (
            computing_type(tensor.dtype, self.device) if self._converts and tensor.dtype in HALF_TYPES else tensor.dtype
        )


class Home(Protocol):
    """Where weights lie: `dtype` is the type of most, and `in_memory` says that it is CPU memory.

    `bytes_onloaded` counts what was brought to the device, whatever type it was computed with in there.
    """

    dtype: torch.dtype
    total_bytes: int
    bytes_onloaded: int
    in_memory: bool

    def holds(self, group: Group, modules: Iterable[nn.Module]) -> Any:
        """A context manager: the modules of the group have their tensors in CPU memory inside the `with` statement."""

    def prefetch(self, group: Group) -> None:
        """Begin to read a group."""


class MemoryHome:
    """The model's own tensors in CPU memory, pinned where they go to a device."""

    in_memory = True

    def __init__(self, model: Any, device: torch.device) -> None:
        tensors = _unique([*model.parameters(), *model.buffers()])
        self.dtype: torch.dtype = model.dtype
        self.bytes_onloaded = 0
        self.total_bytes = sum(tensor.nbytes for tensor in tensors)
        if device.type != "cpu":
            for tensor in tensors:
                tensor.data = tensor.data.pin_memory()

    @contextmanager
    def holds(self, _group: Group, _modules: Iterable[nn.Module]) -> Iterator[None]:
        yield

    def prefetch(self, group: Group) -> None: ...


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _own_tensor(module: nn.Module, name: str) -> Tensor:
    tensor = (module._parameters if name in module._parameters else module._buffers)[name]
    assert tensor is not None
    return tensor


def _put(module: nn.Module, name: str, tensor: Tensor) -> None:
    # Not by setattr, which some modules watch.
    (module._parameters if name in module._parameters else module._buffers)[name] = tensor  # type: ignore[assignment]


def _unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
