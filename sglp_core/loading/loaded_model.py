"""Load a model: fetch its files, check them, find its layers, and load its weights or leave them on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from sglp_core.checkpoints.fetch import Fetched, fetch
from sglp_core.checkpoints.stored_tensors import stored_tensors
from sglp_core.loading.available_memory import must_stream
from sglp_core.loading.load_weights import load_in_memory
from sglp_core.loading.processor import image_shape, processor_of
from sglp_core.loading.source import Source, open_source
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import LayerStack, measure_stack
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.structure.max_positions import require_length
from sglp_core.structure.model_class import model_class
from sglp_core.tasks import require_classes, task_of


@dataclass(frozen=True)
class LoadedModel(LayeredModel):
    """A loaded model with its files, its layers, and its tokenizer or image processor.

    `model` is the only copy of the weights, or a `StreamedModel` whose weights stay on disk.
    """

    fetched: Fetched
    source: Source
    stack: LayerStack
    class_name: str
    processor: Any

    def release(self) -> None:
        """Free the weights, after which the model cannot run."""
        # Changed in place, because other holders of this object would keep the weights in memory.
        object.__setattr__(self, "model", None)


def load_model(model: str | Fetched, options: Options, context: RunContext) -> LoadedModel:
    """Fetch a model, check it, and load its weights or leave them on disk.

    Raises the errors of `fetch`, `open_source`, `measure_stack`, `load_in_memory` and `StreamedModel`.
    """
    if isinstance(model, Fetched):
        fetched = model
    else:
        context.phase("fetching").start(1, "steps")
        fetched = fetch(model, options.revision, context.cache, context.roots)
    with context.phase("opening").single_step():
        source = open_source(fetched.path, context.cache, None if fetched.downloaded else context.roots)
        config = read_config(source.directory)
        stock = model_class(config)
        task = task_of(stock)
        require_classes(config, task)
        processor = processor_of(task, source.directory)
        shape = image_shape(processor) if task == "image_classification" else None
        stored_bits = sum(tensor.size_bytes for tensor in stored_tensors(source.directory)) * 8
        length = options.calibration.sequence_length
        if task != "image_classification":
            require_length(config, length)
        stack = measure_stack(config, length, shape, stored_bits)
        weights = _load_weights(stock, source.directory, context)
    return LoadedModel(weights, stack.path, task, fetched, source, stack, stock.__name__, processor)


def _load_weights(stock: type[transformers.PreTrainedModel], directory: Path, context: RunContext) -> Any:
    if must_stream(context.memory, directory):
        context.cache.mkdir(parents=True, exist_ok=True)
        return StreamedModel(directory, context.cache)
    # Read again, because measuring the stack has set its configuration to eager attention, which counts FLOPs.
    model = load_in_memory(stock, directory, read_config(directory)).eval()
    return model.cuda() if torch.cuda.is_available() else model
