"""Load a model: fetch its files, check them, find its layers, and load its weights or leave them on disk."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from sglp_core.checkpoints.fetch import Fetched, fetch
from sglp_core.checkpoints.stored_tensors import stored_tensors
from sglp_core.execution.available_memory import give_back_memory, give_back_what_is_freed
from sglp_core.execution.disk_home import DiskHome, empty_model
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.loaded_tensors import LoadedTensors, read_loaded_tensors
from sglp_core.execution.placement import fits, must_stream
from sglp_core.execution.weights import MemoryHome, OnloadedWeights, Weights
from sglp_core.loading.first_look import look_at, with_tensors
from sglp_core.loading.load_weights import load_in_memory
from sglp_core.loading.source import Source, open_source
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import LayerStack, StackPath, layers_of
from sglp_core.structure.notes import Note


@dataclass(frozen=True)
class LoadedModel(LayeredModel):
    """A loaded model with its files, its layers, and its tokenizer or image processor.

    `model` is the only copy of the weights, or its modules are empty and `home` has the weights on disk. `tensors` are
    those of the checkpoint that are loaded.
    """

    fetched: Fetched
    source: Source
    stack: LayerStack
    class_name: str
    processor: Any
    tensors: LoadedTensors
    notes: tuple[Note, ...]

    def release(self) -> None:
        """Free the weights, after which the model cannot run."""
        # Changed in place, because other holders of this object would keep the weights in memory.
        for name in ("model", "home"):
            object.__setattr__(self, name, None)
        for name in ("weights", "layerwise", "intermediates"):
            vars(self).pop(name, None)
        self._entered.clear()
        gc.collect()
        give_back_memory()


def load_model(model: str | Fetched, options: Options, context: RunContext) -> LoadedModel:
    """Fetch a model, check it, and load its weights or leave them on disk.

    Raises the errors of `fetch`, `open_source`, `look_at`, `load_in_memory` and `DiskHome`.
    """
    if isinstance(model, Fetched):
        fetched = model
    else:
        context.phase("fetching").start(1, "steps")
        fetched = fetch(model, options.revision, context.cache, context.roots)
    with context.phase("opening").single_step():
        roots = None if fetched.downloaded else context.roots
        source = open_source(fetched.path, context.converted_models(), roots)
        stored = stored_tensors(source.directory)
        look = look_at(
            source.directory,
            {tensor.name: tensor.dtype for tensor in stored},
            sum(tensor.size_bytes for tensor in stored) * 8,
            options.calibration.sequence_length,
        )
        weights = _load_weights(look.model_class, source.directory, context, look.stack.path)
        look = with_tensors(look, weights.tensors)
    return LoadedModel(
        weights.model,
        look.stack.path,
        look.task,
        fetched,
        source,
        look.stack,
        look.model_class.__name__,
        look.processor,
        weights.tensors,
        look.notes,
        home=weights.home,
        scratch=context.cache,
    )


@dataclass(frozen=True)
class _Loaded:
    model: Any
    home: Weights | None
    tensors: LoadedTensors


def _load_weights(
    stock: type[transformers.PreTrainedModel], directory: Path, context: RunContext, path: StackPath
) -> _Loaded:
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    context.cache.mkdir(parents=True, exist_ok=True)
    if must_stream(context.memory, directory):
        if context.memory == "auto":
            # Memory is short, so it is worth the time that this takes.
            give_back_what_is_freed()
        model, stack = empty_model(directory)
        home = DiskHome(directory, model, stack)
        return _Loaded(model, OnloadedWeights(model, layers_of(model, stack), home, device), home.loaded)
    tensors = read_loaded_tensors(directory)
    # Not with the configuration that the stack was measured with: measuring sets eager attention, which counts FLOPs.
    model = load_in_memory(stock, directory, read_config(directory), tensors.dtype).eval()
    if fits(model, device):
        return _Loaded(model.to(device), None, tensors)
    home_in_memory = MemoryHome(model, device)
    return _Loaded(model, OnloadedWeights(model, layers_of(model, path), home_in_memory, device), tensors)
