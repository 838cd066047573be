"""Describe each layer apart from its weights (its signature), and check that removing others does not change it.

Model classes build a layer from an entry of the configuration that belongs to it, or by a rule about its position, such
as "attention in every eighth layer". Entries move with their layer (`config_renumbering.py`), but rules do not. With a
rule, only those runs can be removed after which each later layer has the signature that its new position requires.
"""

import hashlib
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.config import read_config
from sglp_core.structure.config_renumbering import renumber_config
from sglp_core.structure.model_class import meta_model
from sglp_core.structure.runs import Run, Stage
from sglp_core.structure.stages import removable_runs

# Attributes that differ by position but not in what a layer computes: its number, the number of layers, and the
# probability of dropping it in training.
IGNORED_ATTRIBUTES = re.compile(r"^_|training$|drop|(^|_)(idx|index|id|number)$|^num_hidden_layers$")
# How many runs are tried, shortest first.
TRIED_RUNS = 4

ParameterShapes = dict[str, torch.Size]


def layer_signatures(layers: nn.ModuleList) -> tuple[str, ...]:
    """For each layer the sha256 of its modules, their parameter shapes, and their attributes that are plain values."""
    return tuple(hashlib.sha256(repr(_description(layer)).encode()).hexdigest() for layer in layers)


def position_signatures(
    model: Any, config: Any, path: str, signatures: Sequence[str], kinds: Sequence[str]
) -> list[str]:
    """The layers' `signatures` where the class builds layers by position; empty strings where it uses entries.

    Found by trying: layers are removed from models on the meta device such that one of each kind stays. `model` is the
    dense model of this configuration.

    Raises `UnsupportedArchitecture` where no removal leaves a model with the other layers unchanged.
    """
    count = len(signatures)
    outside = _outside(model, path)
    # Not the first or last layer, which are kept by default, and for which some classes have special rules.
    scattered, middle = tuple(range(1, count - 1, 2)), (count // 2,)
    tried = {(1,), scattered if scattered and _keeps_all(kinds, scattered) else middle}
    if all(
        keeps_signatures(config, path, signatures, removed, outside)
        for removed in sorted(tried)
        if _keeps_all(kinds, removed)
    ):
        return [""] * count
    allowed = removable_runs([Stage(0, count)], signatures)
    runs = [Run(i, j) for i in range(count) for j in range(i + 1, count + 1) if allowed[i, j] and j - i < count]
    runs = [run for run in runs if _keeps_all(kinds, run.layers)]
    for run in sorted(runs, key=lambda run: len(run.layers))[:TRIED_RUNS]:
        if keeps_signatures(config, path, signatures, run.layers, outside):
            return list(signatures)
    raise UnsupportedArchitecture(
        f"{(config.architectures or ['the model'])[0]} has layers, or parameters outside of them, that depend on the "
        "number and the place of its layers in a way that config.json does not show, so no layer can be removed"
    )


def keeps_signatures(
    config: Any, path: str, signatures: Sequence[str], removed: Sequence[int], outside: ParameterShapes | None = None
) -> bool:
    """Whether the remaining layers keep their signatures in the model of the renumbered configuration.

    With `outside`, the shapes of the dense model's parameters outside the layers, also whether these are unchanged.
    """
    kept = {old: new for new, old in enumerate(i for i in range(len(signatures)) if i not in set(removed))}
    try:
        smaller = deepcopy(config)
        renumber_config(smaller.get_text_config(), len(signatures), kept)
        # Through JSON, as the written configuration is read.
        model = meta_model(type(smaller).from_dict(smaller.to_dict()))
    except Exception:
        # Model classes raise many types of errors for a configuration that they cannot build.
        return False
    stack = model.get_submodule(path)
    assert isinstance(stack, nn.ModuleList)
    same = layer_signatures(stack) == tuple(signatures[old] for old in kept)
    return same and outside in (None, _outside(model, path))


def require_unchanged_layers(source: Path, stack: Any, removed: Sequence[int]) -> None:
    """Raise `UnsupportedArchitecture` where removing these layers changes others of the model in `source`.

    `position_signatures` has tried only a few removals; some classes have rules for single layers, mostly the last.
    """
    signatures = [layer.signature for layer in stack.layers]
    if all(signatures) and not keeps_signatures(read_config(source), stack.path, signatures, removed):
        raise UnsupportedArchitecture(
            f"without the layers {sorted(removed)} the model class would build other layers differently; protect "
            "layers with a special role, most often the first and the last one"
        )


def _keeps_all(kinds: Sequence[str], removed: Sequence[int]) -> bool:
    return {kind for i, kind in enumerate(kinds) if i not in set(removed)} == set(kinds)


def _outside(model: nn.Module, path: str) -> ParameterShapes:
    return {name: each.shape for name, each in model.named_parameters() if not name.startswith(f"{path}.")}


def _description(layer: nn.Module) -> list[Any]:
    description: list[Any] = []
    for name, module in layer.named_modules():
        # Some modules without parameters exist only at some positions: a stochastic depth of 0 is often left out.
        if not any(True for _ in module.parameters()):
            continue
        shapes = [(key, tuple(each.shape)) for key, each in module.named_parameters(recurse=False)]
        attributes = [
            (key, value)
            for key, value in sorted(vars(module).items())
            if isinstance(value, bool | int | float | str | None) and not IGNORED_ATTRIBUTES.search(key)
        ]
        description.append((name, type(module).__name__, shapes, attributes))
    return description
