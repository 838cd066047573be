"""A model whose weights stay on disk: each layer's tensors are loaded only while the layer runs. On the CPU.

The arguments of each layer are recorded in one forward pass of the model in which the layers do not compute. So there
is no code for single model families here.
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
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.structure.model_class import model_class
from sglp_core.structure.timm_models import is_timm
from sglp_core.tasks import Batch, logits_of

TORCH_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


@dataclass(frozen=True)
class LayerCall:
    """The arguments of a layer beside the hidden states: masks, positions and whatever else its family uses.

    `named` says that the hidden states are passed as a keyword argument.
    """

    rest: tuple[Any, ...]
    kwargs: KeywordArguments
    named: bool

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The layer's output for these hidden states."""
        if self.named:
            return layer_output(layer(hidden_states=hidden, **self.kwargs))
        return layer_output(layer(hidden, *self.rest, **self.kwargs))


@dataclass(frozen=True)
class StackInput:
    """One batch as it enters the first layer: hidden states `[B, T, D]`, and the arguments of every layer."""

    hidden: Tensor
    calls: tuple[LayerCall, ...]


class StreamedModel:
    """A model directory of which only the requested layers are in memory; hidden states are files in `scratch`.

    Raises `UnsupportedArchitecture` for timm models, quantised models, layers in stages, and checkpoints whose tensor
    names do not show which layer a tensor belongs to.
    """

    def __init__(self, directory: Path, scratch: Path) -> None:
        config = read_config(directory)
        if is_timm(config):
            raise UnsupportedArchitecture("timm models are not streamed from disk; the model has to fit in memory")
        if getattr(config, "quantization_config", None):
            raise UnsupportedArchitecture(
                "a model with a quantization_config is not streamed from disk; it has to fit in memory"
            )
        tensors = stored_tensors(directory)
        dtypes = (TORCH_TYPES.get(tensor.dtype) for tensor in tensors)
        dtype = config.dtype or next(dtype for dtype in dtypes if dtype and dtype.is_floating_point)
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
                f"{type(self.model).__name__} has its layers in stages, and only models with one stack are streamed "
                "from disk; the model has to fit in memory"
            )
        self.path = path
        self.layers = layers_of(self.model, self.path)
        prefix = stack_prefix((tensor.name for tensor in tensors), self.path, len(self.layers))
        self._tensors: dict[int | None, list[StoredTensor]] = {}
        for tensor in tensors:
            self._tensors.setdefault(layer_number(tensor.name, prefix), []).append(tensor)
        # What a layer returns after the hidden states, None where it returns a tensor; set once a layer has run.
        self._other_outputs: tuple[Any, ...] | None = None
        self._output_known = False

    def get_submodule(self, path: str) -> nn.Module:
        module: nn.Module = self.model.get_submodule(path)
        return module

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """One layer, with its weights in memory inside the `with` statement."""
        with self._loaded(index, self.layers[index].modules()):
            yield self.layers[index]

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Everything outside the layers (embeddings, last norm, head) has its weights in memory inside the `with`."""
        inside = {id(module) for module in self.layers.modules()}
        with self._loaded(None, (module for module in self.model.modules() if id(module) not in inside)):
            yield

    def stack_inputs(self, batches: Iterable[Batch]) -> list[StackInput]:
        """The hidden states and layer arguments of each batch where it enters the first layer."""
        with self.outside(), torch.no_grad():
            return [self._stack_input(batch) for batch in batches]

    def logits(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Logits from the output `[B, T, D]` of the last layer; call inside `outside()`."""
        last = len(self.layers) - 1

        def pass_on(index: int, args: tuple[Any, ...], kwargs: KeywordArguments) -> Any:
            return self._as_returned(hidden if index == last else layer_input(args, kwargs))

        with self._replaced_layers(pass_on):
            return logits_of(self.model, batch)

    def keep(self, hidden: Tensor) -> Tensor:
        """A copy in a memory-mapped file, used as any other tensor; the file goes when the tensor is freed."""
        with NamedTemporaryFile(dir=self.scratch) as file:
            copy = torch.from_file(file.name, shared=True, size=hidden.numel(), dtype=hidden.dtype).view(hidden.shape)
        return copy.copy_(hidden.detach())

    def _stack_input(self, batch: Batch) -> StackInput:
        calls: list[LayerCall] = []
        entered: list[Tensor] = []

        def record(index: int, args: tuple[Any, ...], kwargs: KeywordArguments) -> Any:
            hidden = layer_input(args, kwargs)
            if entered and not (hidden is entered[0] or torch.equal(hidden, entered[0])):
                raise UnsupportedArchitecture(
                    f"the model changes the hidden states between the layers {index - 1} and {index} of {self.path}, "
                    "so its layers cannot be run one by one; it has to fit in memory"
                )
            entered.append(hidden)
            others = {name: value for name, value in kwargs.items() if value is not hidden}
            calls.append(LayerCall(args[1:], others, named=not args))
            if not self._output_known:
                self._run_first_layer(calls[0], hidden)
            if index == len(self.layers) - 1:
                raise _EndOfStack
            return self._as_returned(hidden)

        with self._replaced_layers(record):
            try:
                logits_of(self.model, batch)
            except _EndOfStack:
                return StackInput(self.keep(entered[0]), tuple(calls))
        raise UnsupportedArchitecture(f"the model does not run all layers of {self.path}; it has to fit in memory")

    def _run_first_layer(self, call: LayerCall, hidden: Tensor) -> None:
        """Run the first layer once to learn whether layers return a tensor or a tuple."""
        with self.layer(0) as layer:
            forward = vars(layer).pop("forward")
            output = (
                layer(hidden_states=hidden, **call.kwargs) if call.named else layer(hidden, *call.rest, **call.kwargs)
            )
            layer.forward = forward
        if isinstance(output, tuple):
            if any(isinstance(value, Tensor) for value in output[1:]):
                raise UnsupportedArchitecture(
                    f"the layers of {self.path} return other tensors beside their hidden states, so they cannot be run "
                    "one by one; the model has to fit in memory"
                )
            self._other_outputs = output[1:]
        self._output_known = True

    def _as_returned(self, hidden: Tensor) -> Any:
        """The hidden states as this family's layers return them: alone, or first in a tuple."""
        return hidden if self._other_outputs is None else (hidden, *self._other_outputs)

    @contextmanager
    def _replaced_layers(self, forward: Callable[[int, tuple[Any, ...], KeywordArguments], Any]) -> Iterator[None]:
        """Replace the computation of every layer; models still read other attributes of the modules."""
        for index, layer in enumerate(self.layers):
            layer.forward = lambda *args, i=index, **kwargs: forward(i, args, kwargs)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward

    @contextmanager
    def _loaded(self, group: int | None, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Load a group of tensors into its modules, and free them at the end."""
        empty = [(module, name, p) for module in modules for name, p in module.named_parameters(recurse=False)]
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
            loaded = {f"{paths[id(module)]}.{name}": getattr(module, name) for module, name, _ in empty}
            require_loaded(name for name, value in loaded.items() if value.is_meta)
            require_finite(loaded.items())
            yield
        finally:
            for module, name, parameter in empty:
                setattr(module, name, parameter)
            if shown:
                logging.enable_progress_bar()


class _EndOfStack(Exception):
    """Ends a forward pass after the last layer has been called."""


def _read(tensor: StoredTensor) -> Tensor:
    """A tensor read from its file into new memory."""
    if tensor.dtype not in TORCH_TYPES:
        raise UnsupportedArchitecture(
            f"tensors of type {tensor.dtype} are not streamed from disk; the model has to fit in memory"
        )
    content = torch.empty(tensor.size_bytes, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        view, filled = content.numpy().data, 0
        while filled < tensor.size_bytes:
            # One read returns at most 2 GiB.
            filled += file.readinto(view[filled:]) or 0
    return content.view(TORCH_TYPES[tensor.dtype]).view(tensor.shape)
