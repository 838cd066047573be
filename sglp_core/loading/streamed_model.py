"""A model whose weights stay on disk: the stock class without weights, and every part's tensors while it is needed.

The model itself says what it calls its layers with: one forward pass in which every layer only notes what it was
given. So a family needs no words of its own here. Runs on the CPU.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from sglp_core.checkpoints.stored_tensors import StoredTensor, layer_number, stack_prefix, stored_tensors
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.loading.load_weights import require_finite, require_loaded
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import find_stack, layer_input, layer_output, layers_of
from sglp_core.structure.model_class import model_class
from sglp_core.structure.timm_models import is_timm
from sglp_core.tasks import Batch, logits_of

TORCH_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """What a layer was called with, beside the hidden states: masks, positions and whatever else its family hands on.

    `named` says that the hidden states came by name.
    """

    rest: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: bool

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """What the layer hands on for these hidden states."""
        if self.named:
            return layer_output(layer(hidden_states=hidden, **self.kwargs))
        return layer_output(layer(hidden, *self.rest, **self.kwargs))


@dataclass(frozen=True)
class Entry:
    """One batch at the entrance of the stack: hidden states `[B, T, D]`, and the call of every layer."""

    hidden: Tensor
    calls: tuple[Call, ...]


class StreamedModel:
    """A model directory with nothing in memory but what is asked for; `scratch` is where hidden states are kept.

    Raises `UnsupportedArchitecture` where the checkpoint's names do not tell the layers.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        config = read_config(directory)
        if is_timm(config):
            raise UnsupportedArchitecture("transformers runs a timm model only with all its weights in memory")
        if getattr(config, "quantization_config", None):
            raise UnsupportedArchitecture("a model with a quantization_config is not streamed; it has to fit in memory")
        tensors = stored_tensors(directory)
        kinds = (TORCH_TYPES.get(tensor.dtype) for tensor in tensors)
        dtype = config.dtype or next(kind for kind in kinds if kind and kind.is_floating_point)
        with init_empty_weights(include_buffers=False):
            self.model = model_class(config)._from_config(config, dtype=dtype).eval()
        self.model.requires_grad_(False)
        self.directory = directory
        self.scratch = scratch
        self.config = self.model.config
        self.dtype: torch.dtype = self.model.dtype
        self.device = torch.device("cpu")
        path = find_stack(self.model)
        if not isinstance(path, str):
            raise UnsupportedArchitecture(
                f"{type(self.model).__name__} has its layers in stages, and only one stack is streamed from disk"
            )
        self.path = path
        self.layers = layers_of(self.model, self.path)
        prefix = stack_prefix((tensor.name for tensor in tensors), self.path, len(self.layers))
        self._tensors: dict[int | None, list[StoredTensor]] = {}
        for tensor in tensors:
            self._tensors.setdefault(layer_number(tensor.name, prefix), []).append(tensor)
        # Whatever a family returns beside the hidden states; known after a layer has run.
        self._beside: tuple[Any, ...] | None = None
        self._known = False

    def get_submodule(self, path: str) -> nn.Module:
        found: nn.Module = self.model.get_submodule(path)
        return found

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """One layer with its weights."""
        with self._loaded(index, self.layers[index].modules()):
            yield self.layers[index]

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Embeddings, last norm and head with their weights: everything that is not in the stack."""
        inside = {id(module) for module in self.layers.modules()}
        with self._loaded(None, (module for module in self.model.modules() if id(module) not in inside)):
            yield

    def entries(self, batches: Iterable[Batch]) -> list[Entry]:
        """What every batch is when it enters the stack."""
        with self.outside(), torch.no_grad():
            return [self._entry(batch) for batch in batches]

    def logits(self, batch: Batch, hidden: Tensor) -> Tensor:
        """What the model makes of the hidden states that leave its last layer; call inside `outside()`."""
        last = len(self.layers) - 1

        def pass_on(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return self._as_returned(hidden if index == last else layer_input(args, kwargs))

        with self._standing_in(pass_on):
            return logits_of(self.model, batch)

    def keep(self, hidden: Tensor) -> Tensor:
        """A copy on disk that reads like any tensor, in memory only as far as there is room; gone when it is freed."""
        with NamedTemporaryFile(dir=self.scratch) as file:
            copy = torch.from_file(file.name, shared=True, size=hidden.numel(), dtype=hidden.dtype).view(hidden.shape)
        return copy.copy_(hidden.detach())

    def _entry(self, batch: Batch) -> Entry:
        calls: list[Call] = []
        entered: list[Tensor] = []

        def note(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = layer_input(args, kwargs)
            if entered and not (hidden is entered[0] or torch.equal(hidden, entered[0])):
                raise UnsupportedArchitecture(
                    f"the model changes the hidden states between the layers {index - 1} and {index} of {self.path}, "
                    "so its layers cannot be run one by one; it has to fit in memory"
                )
            entered.append(hidden)
            beside = {name: value for name, value in kwargs.items() if value is not hidden}
            calls.append(Call(args[1:], beside, named=not args))
            if not self._known:
                self._learn_form(calls[0], hidden)
            if index == len(self.layers) - 1:
                raise _EndOfStack
            return self._as_returned(hidden)

        with self._standing_in(note):
            try:
                logits_of(self.model, batch)
            except _EndOfStack:
                return Entry(self.keep(entered[0]), tuple(calls))
        raise UnsupportedArchitecture(f"the model does not run through all layers of {self.path}")

    def _learn_form(self, call: Call, hidden: Tensor) -> None:
        """Run the first layer once to see whether its family returns a tensor or a tuple."""
        with self.layer(0) as layer:
            forward = vars(layer).pop("forward")
            output = (
                layer(hidden_states=hidden, **call.kwargs) if call.named else layer(hidden, *call.rest, **call.kwargs)
            )
            layer.forward = forward
        if isinstance(output, tuple):
            if any(isinstance(value, Tensor) for value in output[1:]):
                raise UnsupportedArchitecture(
                    f"the layers of {self.path} hand on more than their hidden states, so they cannot be run one by "
                    "one; the model has to fit in memory"
                )
            self._beside = output[1:]
        self._known = True

    def _as_returned(self, hidden: Tensor) -> Any:
        return hidden if self._beside is None else (hidden, *self._beside)

    @contextmanager
    def _standing_in(self, act: Callable[[int, tuple[Any, ...], dict[str, Any]], Any]) -> Iterator[None]:
        """Every layer does `act` instead of its own computation; all else about it stays readable."""
        for index, layer in enumerate(self.layers):
            layer.forward = lambda *args, i=index, **kwargs: act(i, args, kwargs)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward

    @contextmanager
    def _loaded(self, group: int | None, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Load a group of tensors into its modules; afterwards they are without weights as before."""
        places = [(module, name, p) for module in modules for name, p in module.named_parameters(recurse=False)]
        state = {tensor.name: _read(tensor) for tensor in self._tensors.get(group, ())}
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            convert_and_load_state_dict_in_model(
                self.model,
                state,
                LoadStateDictConfig(
                    dtype=self.dtype,
                    dtype_plan=self.model._get_dtype_plan(self.dtype),
                    weight_mapping=get_model_conversion_mapping(self.model),
                ),
                None,
            )
            state.clear()
            if group is None:
                self.model.tie_weights()
            paths = {id(module): path for path, module in self.model.named_modules()}
            loaded = {f"{paths[id(module)]}.{name}": getattr(module, name) for module, name, _ in places}
            require_loaded(name for name, value in loaded.items() if value.is_meta)
            require_finite(loaded.items())
            yield
        finally:
            for module, name, parameter in places:
                setattr(module, name, parameter)
            if shown:
                logging.enable_progress_bar()


class _EndOfStack(Exception):
    """Every layer has been called; what comes after is not wanted."""


def _read(tensor: StoredTensor) -> Tensor:
    """The tensor in memory of its own, read from its place in the file."""
    if tensor.dtype not in TORCH_TYPES:
        raise UnsupportedArchitecture(f"tensors of type {tensor.dtype} are not loaded one by one")
    content = torch.empty(tensor.size_bytes, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        view, filled = content.numpy().data, 0
        while filled < tensor.size_bytes:
            # One read returns at most 2 GiB.
            filled += file.readinto(view[filled:]) or 0
    return content.view(TORCH_TYPES[tensor.dtype]).view(tensor.shape)
