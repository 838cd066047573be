"""Remove layers for real: the modules, every per-layer entry of the configuration, and every layer index.

Plain deletion reloads without an error and with wrong logits; whatever names a layer by its position must follow.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sglp_core.layers import StackPath, layer_input, layers_of
from sglp_core.stages import remove_blocks
from sglp_core.timm_models import is_timm, say_depth

# Lists of layer numbers, where others are lists with one entry a layer.
INDEX_LISTS = (
    "mlp_only_layers",
    "global_attn_indexes",
    "attn_layer_indices",
    "full_attn_idxs",
    "cross_attention_layers",
)
# A number n says: layers from n on are different.
BOUNDARIES = ("max_window_layers", "first_k_dense_replace")
# A number n says: the last n layers are different.
TAILS = ("num_kv_shared_layers",)
INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_index")


def remove_layers(model: Any, path: StackPath, removed: Sequence[int]) -> dict[int, int]:
    """Remove layers in place; returns the map from old to new numbers of the layers that stay."""
    layers = layers_of(model, path)
    kept = {old: new for new, old in enumerate(i for i in range(len(layers)) if i not in set(removed))}
    if not isinstance(path, str):
        remove_blocks(model, [path[number] for number in removed])
        return kept
    if is_timm(model.config):
        say_depth(model.config, [len(kept)])
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


def renumber_config(config: Any, count: int, kept: dict[int, int]) -> None:
    """Make a configuration of `count` layers describe only the kept ones, in their new order."""
    for name, value in list(vars(config).items()):
        if name in INDEX_LISTS and isinstance(value, list | tuple):
            setattr(config, name, [kept[i] for i in value if i in kept])
        elif name in BOUNDARIES and isinstance(value, int):
            setattr(config, name, sum(old < value for old in kept))
        elif name in TAILS and isinstance(value, int):
            setattr(config, name, sum(old >= count - value for old in kept))
        elif isinstance(value, list | tuple) and len(value) == count and name != "architectures":
            setattr(config, name, [value[old] for old in kept])
    config.num_hidden_layers = len(kept)


@contextmanager
def bypassed(layers: nn.ModuleList, removed: Sequence[int]) -> Iterator[None]:
    """The dense model as if the layers were removed: each hands on what it was given, nothing else is touched.

    This is what a removal must equal, found without any of the renumbering that a removal needs.
    """

    def skip(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = layer_input(args, kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [layers[i].register_forward_hook(skip, with_kwargs=True) for i in removed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
