"""Remove layers from a model: their modules, their entries in per-layer lists of the configuration, and their indices.

A model whose modules alone are deleted reloads without an error and has wrong logits: everything that refers to a layer
by its position must be renumbered.
"""

from collections.abc import Sequence
from typing import Any

from sglp_core.structure.config_renumbering import renumber_config
from sglp_core.structure.layer_stack import StackPath, layers_of
from sglp_core.structure.stages import remove_blocks
from sglp_core.structure.timm_models import is_timm, set_depth

INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_index")


def remove_layers(model: Any, path: StackPath, removed: Sequence[int]) -> dict[int, int]:
    """Remove layers in place; returns the map from old to new index of the layers that stay."""
    layers = layers_of(model, path)
    kept = {old: new for new, old in enumerate(i for i in range(len(layers)) if i not in set(removed))}
    if not isinstance(path, str):
        remove_blocks(model, [path[number] for number in removed])
        return kept
    if is_timm(model.config):
        set_depth(model.config, [len(kept)])
    else:
        renumber_config(model.config.get_text_config(), len(layers), kept)
    for old, new in kept.items():
        for module in layers[old].modules():
            for name in INDEX_ATTRIBUTES:
                if vars(module).get(name) == old:
                    setattr(module, name, new)
    stack = model.get_submodule(path)
    for number in sorted(removed, reverse=True):
        del stack[number]
    return kept
