"""Layers that stand in several stages: convolutional networks and hierarchical transformers, whose configuration gives
the `depths` of its stages.

A block that begins a stage changes the shape or has a projection of its own, and stays; the blocks after it are layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.module_lists import rows_in
from sglp_core.structure.runs import Stage
from sglp_core.structure.timm_models import find_depth, is_timm, say_depth

# Attributes that a stock class sets by a block's position in its stage.
POSITIONAL = ("shift_size",)

# Of the hidden states that enter a block and leave it.
Shapes = tuple[torch.Size, torch.Size]


def stage_lists(model: Any) -> list[str]:
    """The names of the lists that hold the blocks of each stage, in order.

    They are the outermost lists whose names differ in one number alone and whose lengths are the `depths` of the
    configuration; of a timm model, the lists that an argument of timm gives the lengths of. Raises
    `UnsupportedArchitecture` where there are none.
    """
    if is_timm(model.config):
        return list(find_depth(model.config).lists)
    depths = list(model.config.depths)
    for row in rows_in(model):
        if list(row.values()) == depths:
            return list(row)
    raise UnsupportedArchitecture(
        f"{type(model).__name__} has stages of {depths} blocks by its configuration; looked for lists of modules of "
        "these lengths whose names differ in one number alone, and found none"
    )


def blocks_of_stages(model: Any, lists: Sequence[str]) -> list[list[str]]:
    """The names of all blocks, stage by stage."""
    return [[f"{name}.{i}" for i in range(len(model.get_submodule(name)))] for name in lists]


def removable_blocks(model: nn.Module, stages: Sequence[Sequence[str]], shapes: Mapping[str, Shapes]) -> list[str]:
    """The layers among the blocks: those that hand on the shape they are given and have the same parameters as the last
    block of their stage.

    `shapes` are those of the hidden states that enter and leave each block. Raises `UnsupportedArchitecture` where
    there are fewer than two.
    """
    found = []
    for names in stages:
        last = _parameter_shapes(model.get_submodule(names[-1]))
        for name in names:
            before, after = shapes[name]
            if before == after and _parameter_shapes(model.get_submodule(name)) == last:
                found.append(name)
    if len(found) < 2:
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has stages, but fewer than two of their blocks keep the shape of their input, so "
            "nothing can be removed"
        )
    return found


def alike(model: nn.Module, names: Sequence[str]) -> bool:
    """Whether the blocks of these names all have the same parameters, by name and shape."""
    first, *others = (_parameter_shapes(model.get_submodule(name)) for name in names)
    return all(other == first for other in others)


def form_of(block: nn.Module) -> str:
    """What a block is by its position and not by its weights, such as the shift of a shifted-window attention."""
    return ", ".join(f"{name}={value}" for name, value in sorted(vars(block).items()) if name in POSITIONAL)


def removable_runs(stages: Sequence[Stage], forms: Sequence[str]) -> np.ndarray:
    """Whether the layers i to j − 1 can go together, bool `[L + 1, L + 1]`.

    Where the blocks of a stage alternate in form, the stock class rebuilds the alternation from the front, so those
    behind a removed run must find themselves in the form of their new places. A run across a border is one run for
    every stage it touches.
    """
    count = len(forms)
    allowed = np.ones((count + 1, count + 1), dtype=bool)
    for stage in stages:
        for i in range(count + 1):
            for j in range(i, count + 1):
                begin, end = max(i, stage.start), min(j, stage.stop)
                if begin < end:
                    behind = list(forms[end : stage.stop])
                    allowed[i, j] &= behind == list(forms[begin : begin + len(behind)])
    return allowed


def remove_blocks(model: Any, names: Sequence[str]) -> None:
    """Delete blocks by name and lower the depths in the configuration; what is behind them moves up."""
    lists = stage_lists(model)
    for name in sorted(names, key=lambda n: int(n.rpartition(".")[2]), reverse=True):
        parent, _, position = name.rpartition(".")
        blocks: Any = model.get_submodule(parent)
        del blocks[int(position)]
    depths = [len(model.get_submodule(name)) for name in lists]
    if is_timm(model.config):
        say_depth(model.config, depths)
    else:
        model.config.depths = depths


def _parameter_shapes(block: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in block.state_dict().items()}
