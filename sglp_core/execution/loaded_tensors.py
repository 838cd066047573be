"""Which tensors of a checkpoint its class loads, under which names, and in which type.

Decided from names, shapes and types before a weight is read, once for weights in memory and on disk alike, by the rules
of `from_pretrained`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
)
from transformers.utils.loading_report import LoadStateDictInfo

from sglp_core.checkpoints.stored_tensors import StoredTensor, stack_prefix, stored_tensors
from sglp_core.checkpoints.tensor_values import TORCH_TYPES, equal_as
from sglp_core.checkpoints.weight_checks import require_loaded, require_shapes
from sglp_core.errors import as_unsupported
from sglp_core.structure.config import read_config
from sglp_core.structure.model_class import untrained_model

LOADABLE_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Conversion:
    """Stored tensors and what they become in the model, by their names there: one of each, unless it is `converted`."""

    stored: tuple[str, ...]
    loaded: tuple[str, ...]
    converted: bool


@dataclass(frozen=True)
class LoadedTensors:
    """The `tensors` of the checkpoint in `directory` that are loaded, file by file in the order of their bytes.

    They are loaded in `dtype`, except where the class keeps some in float32.
    `ignored` are the names of stored tensors that the class has no place for. `untied` are parameters that the
    configuration ties to others, but which are stored with other values. `absent` are names in the model that nothing
    stored is loaded into, before tied ones take their values from others. `transforms` are those of transformers that
    apply to this checkpoint.
    """

    directory: Path
    dtype: torch.dtype
    tensors: tuple[StoredTensor, ...]
    ignored: tuple[str, ...]
    untied: tuple[str, ...]
    absent: frozenset[str]
    conversions: tuple[Conversion, ...]
    transforms: tuple[WeightTransform, ...]

    def stack_prefix(self, path: str, count: int) -> str:
        """`stack_prefix` of the stored names of what is loaded into the `count` layers at `path`."""
        inside = (each.stored for each in self.conversions if any(name.startswith(f"{path}.") for name in each.loaded))
        return stack_prefix(chain.from_iterable(inside), path, count)


def loading_type(config: transformers.PretrainedConfig, tensors: Iterable[StoredTensor]) -> torch.dtype:
    """The type that a model is loaded in: that of its configuration, or the one that most stored numbers have."""
    if config.dtype is not None:
        stated: torch.dtype = config.dtype
        return stated
    numbers: Counter[torch.dtype] = Counter()
    for tensor in tensors:
        dtype = TORCH_TYPES.get(tensor.dtype)
        if dtype in LOADABLE_TYPES:
            numbers[dtype] += tensor.size_bytes // dtype.itemsize
    return max(LOADABLE_TYPES, key=numbers.__getitem__) if numbers else torch.float32


def read_loaded_tensors(directory: Path) -> LoadedTensors:
    """What the class that the configuration names loads. Raises the errors of `tensors_loaded_by`."""
    config = read_config(directory)
    dtype = loading_type(config, stored_tensors(directory))
    return tensors_loaded_by(untrained_model(config, "meta", dtype=dtype), directory)


def tensors_loaded_by(model: Any, directory: Path) -> LoadedTensors:
    """What a model without weights would load from a checkpoint; its `untied` parameters are no longer tied.

    Raises `UnsafeFormat` where a tensor is missing or has another shape, and `UnsupportedArchitecture` where
    transformers cannot convert the stored tensors.
    """
    stored = {tensor.name: tensor for tensor in stored_tensors(directory)}
    expected: dict[str, Tensor] = model.state_dict()
    with as_unsupported("transformers cannot load the weights"):
        conversions, transforms, shapes = _convert(model, stored, expected)
    require_shapes(
        (name, shape, expected[name].shape) for name, shape in shapes.items() if shape != expected[name].shape
    )
    loaded_from = {name: conversion for conversion in conversions for name in conversion.loaded}
    copies, untied = _stored_ties(model, loaded_from, stored)
    absent = frozenset(expected.keys() - loaded_from.keys()) | copies.keys()
    _require_complete(model, absent)
    used = {name for conversion in conversions for name in conversion.stored}
    return LoadedTensors(
        directory,
        model.dtype,
        tuple(tensor for name, tensor in stored.items() if name in used - set(copies.values())),
        tuple(sorted(stored.keys() - used)),
        tuple(untied),
        absent,
        tuple(each for each in conversions if not copies.keys() & set(each.loaded)),
        transforms,
    )


def tie(model: Any, tensors: LoadedTensors) -> None:
    """Tie parameters as `from_pretrained` does after loading: each to the one that the checkpoint has."""
    model.tie_weights(missing_keys=set(tensors.absent), recompute_mapping=False)


def _convert(
    model: Any, stored: Mapping[str, StoredTensor], expected: Mapping[str, Tensor]
) -> tuple[list[Conversion], tuple[WeightTransform, ...], dict[str, Sequence[int]]]:
    """All conversions, the transforms used in them, and the shape that each tensor of the model gets."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    together: dict[str, list[tuple[str, str | None]]] = {}
    for name in sorted(stored, key=dot_natural_key):
        loaded, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if loaded not in expected and name in expected:
            loaded, pattern = rename_source_key(name, [], [], model.base_model_prefix, expected)
        if loaded in expected:
            together.setdefault(loaded, []).append((name, pattern))
    conversions: list[Conversion] = []
    shapes: dict[str, Sequence[int]] = {}
    for loaded, sources in together.items():
        first, first_pattern = sources[0]
        if first_pattern is None:
            # transformers takes the first of several that have the same name in the model.
            shapes[loaded] = stored[first].shape
            conversions.append(Conversion((first,), (loaded,), converted=False))
            continue
        converter = deepcopy(by_pattern[first_pattern])
        for name, pattern in sources:
            converter.add_tensor(loaded, name, pattern, torch.empty(stored[name].shape, device="meta"))
        results = converter.convert(loaded, model=model, config=model.config)
        values = {name: value[0] if isinstance(value, list) else value for name, value in results.items()}
        shapes |= {name: tuple(value.shape) for name, value in values.items() if name in expected}
        conversions.append(Conversion(tuple(name for name, _ in sources), tuple(values), converted=True))
    return conversions, tuple(each for each in transforms if each.was_used()), shapes


def _stored_ties(
    model: Any, loaded_from: Mapping[str, Conversion], stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, str], list[str]]:
    """Tied parameters that are stored beside the ones they are tied to: the copies with their stored names, and others.

    Those with other values are no longer tied in the model. A tied matrix is stored as it is in all families.
    """
    copies: dict[str, str] = {}
    untied: list[str] = []
    for name, other in list(model.all_tied_weights_keys.items()):
        if name not in loaded_from or other not in loaded_from:
            continue
        own, its = loaded_from[name].stored[0], loaded_from[other].stored[0]
        if equal_as(model.dtype, stored[own], stored[its]):
            copies[name] = own
        else:
            untied.append(name)
            del model.all_tied_weights_keys[name]
    return copies, untied


def _require_complete(model: Any, absent: Iterable[str]) -> None:
    missing = set(absent)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    info = LoadStateDictInfo(
        missing_keys=missing,
        unexpected_keys=set(),
        mismatched_keys=set(),
        conversion_errors={},
        error_msgs=[],
        skipped_pp_keys=set(),
    )
    # Some classes compute a tensor themselves where old checkpoints do not have it.
    model._adjust_missing_and_unexpected_keys(info)
    require_loaded(info.missing_keys)
