"""The first look at a model: what it is, or why it cannot be worked with, before a weight is read.

Jobs and estimates take the same look, so an estimate promises nothing that a job refuses.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import transformers

from sglp_core.checkpoints.model_folder import custom_code
from sglp_core.checkpoints.quantisation import refuse_quantised
from sglp_core.checkpoints.strict_json import read_json
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.execution.loaded_tensors import LoadedTensors
from sglp_core.loading.processor import image_shape, processor_of
from sglp_core.structure.config import read_config
from sglp_core.structure.config_renumbering import prediction_layers
from sglp_core.structure.layer_stack import LayerStack, measure_stack
from sglp_core.structure.max_positions import require_length
from sglp_core.structure.model_class import meta_model, model_class
from sglp_core.structure.notes import Note, note_on_layers, notes_on
from sglp_core.tasks import Task, task_of

NUMBERED = re.compile(r"((?:(?!\d+\.)[^.]+\.)+)(\d+)\.")


@dataclass(frozen=True)
class FirstLook:
    """What a model is. `image_shape` is (channels, height, width), None for models of text.

    `processor` is the tokenizer or image processor; None for a GGUF file that is not converted.
    """

    config: transformers.PretrainedConfig
    model_class: type[transformers.PreTrainedModel]
    task: Task
    processor: Any
    image_shape: tuple[int, ...] | None
    stack: LayerStack
    notes: tuple[Note, ...] = ()


def look_at(directory: Path, tensor_types: Mapping[str, str], stored_bits: int, sequence_length: int) -> FirstLook:
    """Look at a model directory whose files were checked.

    `tensor_types` are the safetensors types of its tensors by their names, `stored_bits` the size of all. Raises
    `UnsupportedArchitecture` for quantised weights and for what no class of transformers with one stack of layers is
    for, `UnsafeFormat` where that needs code of the model's own, `ModelNotFound` without a tokenizer or image
    processor, and `BadCalibration` for windows longer than the model reads.
    """
    stated = read_json(directory / "config.json")
    refuse_quantised(stated, tensor_types)
    try:
        config = read_config(directory)
        stock = model_class(config)
    except UnsupportedArchitecture as error:
        if "auto_map" in stated:
            raise custom_code("config.json") from error
        raise
    processor = processor_of(task_of(stock, config), directory)
    return _measured(config, processor, stored_bits, sequence_length, tuple(notes_on(stated, config)))


def look_at_gguf(config: transformers.PretrainedConfig, stored_bits: int, sequence_length: int) -> FirstLook:
    """Look at a GGUF file by its configuration; raises what `look_at` does."""
    return _measured(config, None, stored_bits, sequence_length, ())


def with_tensors(look: FirstLook, tensors: LoadedTensors) -> FirstLook:
    """The same look, knowing which of the stored tensors are loaded: with the parameters that are no longer tied."""
    untied = 0
    if tensors.untied:
        model = meta_model(look.config)
        untied = sum(model.get_parameter(name).numel() for name in tensors.untied)
    stack = replace(look.stack, total_parameters=look.stack.total_parameters + untied)
    return replace(look, stack=stack, notes=(*look.notes, *_notes_on_tensors(tensors, look)))


def _notes_on_tensors(tensors: LoadedTensors, look: FirstLook) -> Iterator[Note]:
    loaded, ignored = (_numbers(names) for names in ((each.name for each in tensors.tensors), tensors.ignored))
    configured = len(look.stack)
    expected = configured + sum(prediction_layers(look.config.get_text_config()).values())
    for prefix, numbers in loaded.items():
        stored = max(ignored.get(prefix, set()), default=0) + 1
        if numbers == set(range(configured)) and stored > expected:
            yield note_on_layers(configured, stored)


def _numbers(names: Iterable[str]) -> dict[str, set[int]]:
    """The numbers that follow each prefix, up to the first number in a name."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        if match := NUMBERED.match(name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    return numbers


def _measured(
    config: transformers.PretrainedConfig,
    processor: Any,
    stored_bits: int,
    sequence_length: int,
    notes: tuple[Note, ...],
) -> FirstLook:
    stock = model_class(config)
    task = task_of(stock, config)
    shape = image_shape(processor) if processor and task == "image_classification" else None
    if shape is None:
        require_length(config, sequence_length)
    stack = measure_stack(config, sequence_length, shape, stored_bits)
    return FirstLook(config, stock, task, processor, shape, stack, notes)
