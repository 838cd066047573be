"""What each layer is, apart from its weights, and whether it would still be that with others removed.

Stock classes make a layer by what the configuration says of it, or by its place: every eighth one with attention. What
is said of a layer follows it (`renumbering.py`). A rule of places stays one, so there only runs can go that leave all
layers behind them what their new places make them.
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

# What differs with the place of a layer and makes no difference to what it computes: its number, of how many, and how
# often it is left out in training.
OF_NO_ACCOUNT = re.compile(r"^_|training$|drop|(^|_)(idx|index|id|number)$|^num_hidden_layers$")
# Of runs, shortest first, until one is found to hold.
TRIED_RUNS = 4

Shapes = dict[str, torch.Size]


def layouts_of(layers: nn.ModuleList) -> tuple[str, ...]:
    """For each layer a digest of its modules, the shapes of their parameters, and their numbers and words."""
    return tuple(hashlib.sha256(repr(_described(layer)).encode()).hexdigest() for layer in layers)


def forms_of(model: Any, config: Any, path: str, layouts: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """What each layer is where a stock class makes it by its place, or an empty word where an entry says it.

    Found by trying: layers are removed from models on the meta device, such that of every kind one stays. `model` is
    the dense one of this configuration.

    Raises `UnsupportedArchitecture` where removing layers leaves no model of the layers that stay.
    """
    count = len(layouts)
    outside = _outside(model, path)
    # Not at the ends, which are kept unless somebody asks for it: some classes have rules for them.
    scattered, middle = tuple(range(1, count - 1, 2)), (count // 2,)
    tried = {(1,), scattered if scattered and _keeps_all(kinds, scattered) else middle}
    if all(
        stays_what_it_is(config, path, layouts, removed, outside)
        for removed in sorted(tried)
        if _keeps_all(kinds, removed)
    ):
        return [""] * count
    allowed = removable_runs([Stage(0, count)], layouts)
    runs = [Run(i, j) for i in range(count) for j in range(i + 1, count + 1) if allowed[i, j] and j - i < count]
    runs = [run for run in runs if _keeps_all(kinds, run.layers)]
    for run in sorted(runs, key=lambda run: len(run.layers))[:TRIED_RUNS]:
        if stays_what_it_is(config, path, layouts, run.layers, outside):
            return list(layouts)
    raise UnsupportedArchitecture(
        f"{(config.architectures or ['the model'])[0]} has layers, or parameters outside of them, that depend on the "
        "number and the place of its layers in a way that is not in its config.json, so that none can be removed"
    )


def stays_what_it_is(
    config: Any, path: str, layouts: Sequence[str], removed: Sequence[int], outside: Shapes | None = None
) -> bool:
    """Whether the model that the renumbered configuration makes has the layers that stay, as they were.

    And, with the shapes of the dense model's parameters `outside` of the layers, whether these are as before.
    """
    kept = {old: new for new, old in enumerate(i for i in range(len(layouts)) if i not in set(removed))}
    try:
        smaller = deepcopy(config)
        renumber_config(smaller.get_text_config(), len(layouts), kept)
        # As it is read back from what is written.
        model = meta_model(type(smaller).from_dict(smaller.to_dict()))
    except Exception:
        # Classes fail in ways of their own at what they cannot be.
        return False
    stack = model.get_submodule(path)
    assert isinstance(stack, nn.ModuleList)
    same = layouts_of(stack) == tuple(layouts[old] for old in kept)
    return same and outside in (None, _outside(model, path))


def require_layout(source: Path, stack: Any, removed: Sequence[int]) -> None:
    """Raises `UnsupportedArchitecture` where the model in `source` has other layers with these removed.

    `forms_of` has tried but a few; some classes have rules for single layers, mostly the last.
    """
    layouts = [layer.layout for layer in stack.layers]
    if all(layouts) and not stays_what_it_is(read_config(source), stack.path, layouts, removed):
        raise UnsupportedArchitecture(
            f"without the layers {sorted(removed)} those that stay would be other than they are; protect what has a "
            "role of its own, most often the first and the last layer"
        )


def _keeps_all(kinds: Sequence[str], removed: Sequence[int]) -> bool:
    return {kind for i, kind in enumerate(kinds) if i not in set(removed)} == set(kinds)


def _outside(model: nn.Module, path: str) -> Shapes:
    return {name: each.shape for name, each in model.named_parameters() if not name.startswith(f"{path}.")}


def _described(layer: nn.Module) -> list[Any]:
    described: list[Any] = []
    for name, module in layer.named_modules():
        # Of those without parameters some are there or not by place: a stochastic depth that is 0 is often no module.
        if not any(True for _ in module.parameters()):
            continue
        shapes = [(key, tuple(each.shape)) for key, each in module.named_parameters(recurse=False)]
        said = [
            (key, value)
            for key, value in sorted(vars(module).items())
            if isinstance(value, bool | int | float | str | None) and not OF_NO_ACCOUNT.search(key)
        ]
        described.append((name, type(module).__name__, shapes, said))
    return described
