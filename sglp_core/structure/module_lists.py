"""Find the lists of modules in a network, rows of such lists, which hold the blocks of its stages, and its towers."""

import re
from collections import defaultdict

import transformers
from torch import nn


def lists_in(model: nn.Module) -> dict[str, int]:
    """Name and length of each list of modules (`ModuleList` or `Sequential`), in the order of the model."""
    lists = (nn.ModuleList, nn.Sequential)
    return {name: len(module) for name, module in model.named_modules() if isinstance(module, lists)}


def rows_in(model: nn.Module) -> list[dict[str, int]]:
    """Rows of lists whose names differ only in one number, ordered by it, with their lengths; outermost rows first."""
    rows: dict[tuple[str, str], dict[int, tuple[str, int]]] = defaultdict(dict)
    for name, length in lists_in(model).items():
        for number in re.finditer(r"\d+", name):
            around = (name[: number.start()], name[number.end() :])
            rows[around][int(number.group())] = (name, length)
    in_order = [dict(row[number] for number in sorted(row)) for row in rows.values()]
    return sorted(in_order, key=lambda row: next(iter(row)).count("."))


def other_towers(model: transformers.PreTrainedModel) -> tuple[str, ...]:
    """The prefixes of the names in those parts of a model that have a configuration beside that of its language model,
    such as a vision tower."""
    own = {type(model.config), type(model.config.get_text_config())}
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if isinstance(module, transformers.PreTrainedModel) and type(module.config) not in own
    )
