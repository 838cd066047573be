"""Open a model: fetch its files, check them, find its layers, load its weights once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sglp_core.checkpoints.fetch import Fetched, fetch
from sglp_core.checkpoints.stored_tensors import stored_tensors
from sglp_core.loading.available_memory import streams
from sglp_core.loading.load_weights import load_whole
from sglp_core.loading.processor import image_shape, processor_of
from sglp_core.loading.source import Source, open_source
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Memory
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import LayerStack, measure_stack
from sglp_core.structure.max_positions import require_length
from sglp_core.structure.model_class import model_class
from sglp_core.tasks import Task, require_classes, task_of


@dataclass
class Opened:
    """A loaded model with everything known before it has run.

    `model` is the only copy of the weights, or a `StreamedModel` whose weights stay on disk.
    """

    fetched: Fetched
    source: Source
    stack: LayerStack
    task: Task
    class_name: str
    model: Any
    processor: Any

    def release(self) -> None:
        """Give the weights back, once they are on disk."""
        self.model = None


def open_model(
    model: str | Fetched,
    revision: str | None,
    sequence_length: int,
    cache: Path,
    roots: Sequence[Path] | None,
    on_phase: Callable[[str], None],
    memory: Memory = "auto",
) -> Opened:
    """Fetch, check and load, or leave the weights on disk.

    Raises the errors of `fetch`, `open_source`, `measure_stack` and `StreamedModel`.
    """
    if isinstance(model, Fetched):
        fetched = model
    else:
        on_phase("fetching")
        fetched = fetch(model, revision, cache, roots)
    on_phase("opening")
    source = open_source(fetched.path, cache, None if fetched.downloaded else roots)
    config = read_config(source.directory)
    stock = model_class(config)
    task = task_of(stock)
    require_classes(config, task)
    processor = processor_of(task, source.directory)
    shape = image_shape(processor) if task == "image_classification" else None
    stored_bits = sum(tensor.size_bytes for tensor in stored_tensors(source.directory)) * 8
    if task != "image_classification":
        require_length(config, sequence_length)
    stack = measure_stack(config, sequence_length, shape, stored_bits)
    opened = Opened(fetched, source, stack, task, stock.__name__, None, processor)
    if streams(memory, source.directory):
        cache.mkdir(parents=True, exist_ok=True)
        opened.model = StreamedModel(source.directory, cache)
        return opened
    # Read anew: measuring has set the other one to the attention that shows its FLOPs.
    opened.model = load_whole(stock, source.directory, read_config(source.directory)).eval()
    if torch.cuda.is_available():
        opened.model.cuda()
    return opened
