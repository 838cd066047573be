"""Rows of lists of modules: how the blocks of a network's stages lie in it, whatever they are called."""

import re
from collections import defaultdict

from torch import nn


def lists_in(model: nn.Module) -> dict[str, int]:
    """Name and length of every list of modules, in the order of the model."""
    lists = (nn.ModuleList, nn.Sequential)
    return {name: len(module) for name, module in model.named_modules() if isinstance(module, lists)}


def rows_in(model: nn.Module) -> list[dict[str, int]]:
    """The lists whose names differ in one number alone, in its order, with their lengths; outermost rows first."""
    rows: dict[tuple[str, str], dict[int, tuple[str, int]]] = defaultdict(dict)
    for name, length in lists_in(model).items():
        for number in re.finditer(r"\d+", name):
            around = (name[: number.start()], name[number.end() :])
            rows[around][int(number.group())] = (name, length)
    in_order = [dict(row[number] for number in sorted(row)) for row in rows.values()]
    return sorted(in_order, key=lambda row: next(iter(row)).count("."))
