"""Changed weights of a model as its checkpoint stores them: under other names, or split where loading merges."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from sglp_core.checkpoints.stored_tensors import StoredTensor, stored_tensors
from sglp_core.errors import UnsupportedArchitecture, as_unsupported
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.loaded_tensors import Conversion, LoadedTensors
from sglp_core.execution.weight_changes import Changes, tensor_named


def with_changes(model: LayeredModel, loaded: LoadedTensors, changes: Changes, folder: Path) -> LoadedTensors:
    """The tensors of a checkpoint with the changed ones in their places, which are written to `folder`.

    Raises `UnsupportedArchitecture` where transformers cannot turn changed weights back into the stored tensors.
    """
    changed: dict[str, StoredTensor] = {}
    for number, values in enumerate(_stored_changes(model, loaded, changes)):
        part = folder / str(number)
        part.mkdir(parents=True)
        save_file({name: value.contiguous().cpu() for name, value in values.items()}, part / "model.safetensors")
        changed |= {tensor.name: tensor for tensor in stored_tensors(part)}
    return replace(loaded, tensors=tuple(changed.get(tensor.name, tensor) for tensor in loaded.tensors))


def _stored_changes(model: LayeredModel, loaded: LoadedTensors, changes: Changes) -> Iterator[dict[str, Tensor]]:
    """New values of stored tensors by their stored names, those of one conversion at a time."""
    changes = {_loaded_name(model, loaded, name): value for name, value in changes.items()}
    for conversion in loaded.conversions:
        if changes.keys().isdisjoint(conversion.loaded):
            continue
        if conversion.converted:
            yield _reverted(model, loaded, conversion, changes)
        else:
            yield {conversion.stored[0]: changes[conversion.loaded[0]]}


def _loaded_name(model: LayeredModel, loaded: LoadedTensors, name: str) -> str:
    """The name under which a tensor is loaded, which for a tied one may be that of another parameter."""
    if name not in loaded.absent:
        return name
    ties: dict[str, str] = model.model.all_tied_weights_keys
    source = ties.get(name, name)
    return next(
        each for each in (source, *(other for other in ties if ties[other] == source)) if each not in loaded.absent
    )


def _reverted(
    model: LayeredModel, loaded: LoadedTensors, conversion: Conversion, changes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The stored tensors of one conversion, from the changed ones and those that were converted with them."""
    values = {name: changes[name] for name in conversion.loaded if name in changes}
    unchanged = [name for name in conversion.loaded if name not in changes]
    if unchanged:
        weights = model.weights.as_stored()
        layer = unchanged[0].removeprefix(f"{model.path}.").partition(".")[0]
        with weights.onloaded(int(layer) if layer.isdigit() else None):
            values |= {name: tensor_named(model.model, name).cpu() for name in unchanged}
    model.model._weight_conversions = list(loaded.transforms)
    with as_unsupported("transformers cannot turn changed weights back into the tensors of the checkpoint"):
        reverted = revert_weight_conversion(model.model, values)
    base = f"{model.model.base_model_prefix}."
    stored = {}
    for name, value in reverted.items():
        # Transformers adds or leaves out the prefix of the model around the head without a conversion.
        names = {name, name.removeprefix(base), base + name} & set(conversion.stored)
        if names:
            stored[names.pop()] = value
    if stored.keys() != set(conversion.stored):
        missing = sorted(set(conversion.stored) - stored.keys())
        raise UnsupportedArchitecture(
            f"the changed weights {', '.join(sorted(values)[:3])} cannot be written as the checkpoint stores them: "
            f"transformers does not give {', '.join(missing[:3])} back; the model has to fit in memory"
        )
    return stored
