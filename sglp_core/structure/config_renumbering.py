"""Update a configuration after layers are removed: entries that belong to a layer get the layer's new number.

Which lists have an entry for each layer is known, not guessed from their lengths: as many ids of tokens, sizes or
thresholds may be stated as there are layers.
"""

from copy import deepcopy
from typing import Any

# Lists with an entry for each layer that some classes read, and do not make themselves.
PER_LAYER = (
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "attention_layers",
    "attention_window",
    "moe_topk",
    "swiglu_limits",
    "swiglu_limits_shared",
)
# Lists of layer numbers.
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
# Numbers of further layers behind the last one, which predict more tokens. Model classes do not load them.
PREDICTION_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")


def renumber_config(config: Any, count: int, kept: dict[int, int]) -> None:
    """Make a configuration of `count` layers describe only the kept ones; `kept` maps old to new numbers."""
    overrides = config.to_dict().get("per_layer_config")
    per_layer = {*PER_LAYER, *_made_for_each_layer(config, count)}
    for name, value in list(vars(config).items()):
        if name in INDEX_LISTS and isinstance(value, list | tuple):
            setattr(config, name, [kept[i] for i in value if i in kept])
        elif name in BOUNDARIES and isinstance(value, int):
            setattr(config, name, sum(old < value for old in kept))
        elif name in TAILS and isinstance(value, int):
            setattr(config, name, sum(old >= count - value for old in kept))
        elif name in per_layer and isinstance(value, list | tuple) and len(value) == count:
            setattr(config, name, [value[old] for old in kept])
    for name in prediction_layers(config):
        setattr(config, name, 0)
    config.num_hidden_layers = len(kept)
    if overrides:
        by_number = {int(number): entries for number, entries in overrides.items()}
        config.per_layer_config = {kept[old]: entries for old, entries in by_number.items() if old in kept}
    names = getattr(config, "stage_names", None)
    if names and len(names) == count + 1:
        # Encoders that can serve as backbones name their input and each layer; the output is that of the last layer.
        config.stage_names = names[: len(kept) + 1]
        config.set_output_features_output_indices(out_features=config.stage_names[-1:], out_indices=None)


def needed_layer_types(config: Any) -> set[str]:
    """The entries of `layer_types` without which the configuration's class cannot be made, as it says when it is."""
    types = list(getattr(config, "layer_types", None) or ())
    if len(set(types)) < 2 or not _can_be_made(config):
        return set()
    needed = set()
    for each in set(types):
        renumbered = deepcopy(config)
        stay = [index for index, other in enumerate(types) if other != each]
        renumber_config(renumbered, len(types), {old: new for new, old in enumerate(stay)})
        if not _can_be_made(renumbered):
            needed.add(each)
    return needed


def _can_be_made(config: Any) -> bool:
    try:
        type(config).from_dict(config.to_dict())
    except Exception:
        # Configuration classes raise many types of errors.
        return False
    return True


def prediction_layers(config: Any) -> dict[str, int]:
    """The entries of a configuration that promise layers behind the last one, which predict further tokens."""
    stated = {name: value for name, value in vars(config).items() if name in PREDICTION_LAYERS}
    return {name: value for name, value in stated.items() if isinstance(value, int) and value > 0}


def _made_for_each_layer(config: Any, count: int) -> set[str]:
    """The lists of `count` entries that the configuration's class makes itself, with as many as there are layers."""
    lists = {name for name, value in vars(config).items() if isinstance(value, list | tuple) and len(value) == count}
    values = {name: value for name, value in config.to_dict().items() if name not in lists}
    values.pop("per_layer_config", None)
    layers = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    made = []
    # One layer more, not fewer: what the configuration says of its last layer stays true.
    for number in (count, count + 1):
        try:
            made.append(type(config).from_dict(deepcopy(values) | {layers: number}))
        except Exception:
            # Configuration classes raise many types of errors; their lists are then those of `PER_LAYER`.
            return set()
    return {
        name
        for name in lists
        if all(
            _length(getattr(each, name, None)) == number for each, number in zip(made, (count, count + 1), strict=True)
        )
    }


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list | tuple) else None
