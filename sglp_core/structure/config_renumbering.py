"""Update a configuration after layers are removed: entries that belong to a layer get the layer's new number."""

from typing import Any

# Lists of layer numbers; other lists have one entry per layer.
INDEX_LISTS = (
    "mlp_only_layers",
    "moe_layers",
    "global_attn_indexes",
    "attn_layer_indices",
    "full_attn_idxs",
    "cross_attention_layers",
)
# Numbers n that mean: layers from n on are different.
BOUNDARIES = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
# Numbers n that mean: the last n layers are different.
TAILS = ("num_kv_shared_layers",)


def renumber_config(config: Any, count: int, kept: dict[int, int]) -> None:
    """Make a configuration of `count` layers describe only the kept ones; `kept` maps old to new numbers."""
    overrides = config.to_dict().get("per_layer_config")
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
    if overrides:
        by_number = {int(number): entries for number, entries in overrides.items()}
        config.per_layer_config = {kept[old]: entries for old, entries in by_number.items() if old in kept}
    names = getattr(config, "stage_names", None)
    if names and len(names) == count + 1:
        # Encoders that can serve as backbones name their input and each layer; the output is that of the last layer.
        config.stage_names = names[: len(kept) + 1]
        config.set_output_features_output_indices(out_features=config.stage_names[-1:], out_indices=None)
