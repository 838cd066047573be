"""Find and remove layers in models with stages: convolutional networks and hierarchical transformers with `depths`.

The first block of a stage usually changes the shape of the hidden states or has an extra projection, so it stays; the
blocks after it are layers that can be removed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.module_lists import rows_in
from sglp_core.structure.runs import Stage
from sglp_core.structure.timm_models import find_depth, is_timm, set_depth

# Attributes that model classes set by a block's position in its stage.
POSITIONAL = ("shift_size",)

# Shapes of the hidden states that enter and leave a block.
Shapes = tuple[torch.Size, torch.Size]


def stage_lists(model: Any) -> list[str]:
    """The names of the lists that hold the blocks of each stage, in order.

    They are the outermost lists whose names differ only in one number and whose lengths are the `depths` of the
    configuration; for a timm model, the lists whose lengths an argument of timm sets. Raises `UnsupportedArchitecture`
    where there are none.
    """
    if is_timm(model.config):
        return list(find_depth(model.config).lists)
    depths = list(model.config.depths)
    for row in rows_in(model):
        if list(row.values()) == depths:
            return list(row)
    raise UnsupportedArchitecture(
        f"{type(model).__name__} has stages of {depths} blocks by its configuration; looked for lists of modules of "
        "these lengths whose names differ only in one number, and found none"
    )


def blocks_of_stages(model: Any, lists: Sequence[str]) -> list[list[str]]:
    """The names of all blocks, stage by stage."""
    return [[f"{name}.{i}" for i in range(len(model.get_submodule(name)))] for name in lists]


def removable_blocks(model: nn.Module, stages: Sequence[Sequence[str]], shapes: Mapping[str, Shapes]) -> list[str]:
    """The blocks that can be removed: their output has the shape of their input, and their parameters have the names
    and shapes of the last block of their stage.

    `shapes` are those of the hidden states that enter and leave each block. Raises `UnsupportedArchitecture` where
    there are fewer than two such blocks.
    """
    removable = []
    for names in stages:
        last = _parameter_shapes(model.get_submodule(names[-1]))
        for name in names:
            before, after = shapes[name]
            if before == after and _parameter_shapes(model.get_submodule(name)) == last:
                removable.append(name)
    if len(removable) < 2:
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has stages, but fewer than two of their blocks keep the shape of their input, so "
            "nothing can be removed"
        )
    return removable


def same_parameter_shapes(model: nn.Module, names: Sequence[str]) -> bool:
    """Whether the parameters of all these blocks have the same names and shapes."""
    first, *others = (_parameter_shapes(model.get_submodule(name)) for name in names)
    return all(other == first for other in others)


def positional_attributes(block: nn.Module) -> str:
    """The attributes that the class sets by the block's position, such as the shift of a shifted-window attention."""
    return ", ".join(f"{name}={value}" for name, value in sorted(vars(block).items()) if name in POSITIONAL)


def removable_runs(stages: Sequence[Stage], position_signatures: Sequence[str]) -> np.ndarray:
    """Whether the layers i to j − 1 can be removed as one run, bool `[L + 1, L + 1]`.

    When the smaller model is built, its class sets the positional attributes of a stage from the first block on. So
    each block after a removed run must have the `position_signatures` entry of the position that it moves to. A run
    across several stages counts as one run in each of them.
    """
    count = len(position_signatures)
    allowed = np.ones((count + 1, count + 1), dtype=bool)
    for stage in stages:
        for i in range(count + 1):
            for j in range(i, count + 1):
                begin, end = max(i, stage.start), min(j, stage.stop)
                if begin < end:
                    after = list(position_signatures[end : stage.stop])
                    allowed[i, j] &= after == list(position_signatures[begin : begin + len(after)])
    return allowed


def remove_blocks(model: Any, names: Sequence[str]) -> None:
    """Delete blocks by name and reduce the depths in the configuration; later blocks of the stage move forward."""
    lists = stage_lists(model)
    for name in sorted(names, key=lambda n: int(n.rpartition(".")[2]), reverse=True):
        parent, _, position = name.rpartition(".")
        blocks: Any = model.get_submodule(parent)
        del blocks[int(position)]
    depths = [len(model.get_submodule(name)) for name in lists]
    if is_timm(model.config):
        set_depth(model.config, depths)
    else:
        model.config.depths = depths


def _parameter_shapes(block: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in block.state_dict().items()}
