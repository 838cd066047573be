"""Which entries of a configuration follow the layers, and which only happen to be as many."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sglp_core.structure.config_renumbering import PER_LAYER, renumber_config

LAYERS = 4
KEPT = {0: 0, 2: 1, 3: 2}
SMALL: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def renumbered(config: Any) -> Any:
    renumber_config(config, LAYERS, KEPT)
    assert config.num_hidden_layers == 3
    return config


# As many entries as there are layers, and none of them belongs to a layer.
NOT_PER_LAYER: dict[str, tuple[str, dict[str, Any]]] = {
    "ids of tokens": ("LlamaConfig", {**SMALL, "eos_token_id": [1, 3, 4, 5]}),
    "ids of a class's own": ("LlamaConfig", {**SMALL, "stop_ids": [1, 3, 4, 5]}),
    "labels": ("LlamaConfig", {**SMALL, "label_names": ["a", "b", "c", "d"]}),
    "architectures": ("LlamaConfig", {**SMALL, "architectures": ["A", "B", "C", "LlamaForCausalLM"]}),
    "a pattern": ("RecurrentGemmaConfig", {**SMALL, "block_types": ["recurrent", "attention"] * 2}),
    "sizes of pools": ("BeitConfig", {**SMALL, "pool_scales": [1, 2, 3, 6]}),
    "thresholds": ("NemotronHConfig", {**SMALL, "layer_types": ["moe"] * 4, "time_step_limit": [0.0, 1.0, 2.0, 3.0]}),
    "layers of another stack": (
        "NemotronHConfig", {**SMALL, "layer_types": ["moe"] * 4, "mtp_layers_block_type": ["mlp", "moe"] * 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_PER_LAYER)
def test_what_belongs_to_no_layer_is_not_touched(case: str) -> None:
    name, values = NOT_PER_LAYER[case]
    (entry, stated) = list(values.items())[-1]
    config = renumbered(getattr(transformers, name)(**values))
    assert list(getattr(config, entry)) == stated


# Lists that a class makes itself where none is stated.
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "kinds of attention": ("Gemma3TextConfig", {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]}),
    "positions": ("SmolLM3Config", {"no_rope_layers": [1, 1, 0, 1]}),
    "sizes": ("Gemma3nTextConfig", {"intermediate_size": [16, 32, 48, 64]}),
    "shares": ("Gemma3nTextConfig", {"activation_sparsity_pattern": [0.1, 0.2, 0.3, 0.4]}),
    "bases of positions": ("GraniteSWAConfig", {"layer_rope_theta": [1.0, 2.0, 3.0, 4.0]}),
}


@pytest.mark.parametrize("case", MADE)
def test_lists_that_the_class_makes_for_each_layer_follow_the_layers(case: str) -> None:
    name, values = MADE[case]
    ((entry, stated),) = values.items()
    config = renumbered(getattr(transformers, name)(**{**SMALL, **values}))
    assert list(getattr(config, entry)) == [stated[0], stated[2], stated[3]]


# Lists that the class only reads, by the entry of `PER_LAYER`.
READ: dict[str, tuple[str, dict[str, Any]]] = {
    "layer_types": ("NemotronHConfig", {"layer_types": ["linear_attention", "moe", "full_attention", "mlp"]}),
    "layers_block_type": ("LlamaConfig", {"layers_block_type": ["mamba", "hybrid", "mamba", "attention"]}),
    "mlp_layer_types": ("LlamaConfig", {"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}),
    "attention_layers": ("GPTNeoConfig", {"attention_types": [[["global", "local"], 2]]}),
    "attention_window": ("LongformerConfig", {"attention_window": [4, 8, 16, 32]}),
    "moe_topk": ("HunYuanMoEV1Config", {"moe_topk": [1, 2, 3, 4]}),
    "swiglu_limits": ("Step3p7TextConfig", {"swiglu_limits": [0.0, 1.0, 2.0, 3.0]}),
    "swiglu_limits_shared": ("Step3p7TextConfig", {"swiglu_limits_shared": [0.0, 1.0, 2.0, 3.0]}),
}


@pytest.mark.parametrize("entry", PER_LAYER)
def test_lists_that_a_class_reads_for_each_layer_follow_the_layers(entry: str) -> None:
    name, values = READ[entry]
    sizes = {**SMALL, "num_layers": LAYERS} if name == "GPTNeoConfig" else SMALL
    config = getattr(transformers, name)(**{**sizes, **values})
    before = list(getattr(config, entry))
    assert list(getattr(renumbered(config), entry)) == [before[0], before[2], before[3]]


def test_a_smaller_model_stops_where_the_original_stops(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SMALL, eos_token_id=[1, 3, 4, 5])
    model = transformers.LlamaForCausalLM(config)
    renumber_config(model.config, LAYERS, KEPT)
    model.config.save_pretrained(tmp_path)
    assert transformers.LlamaConfig.from_pretrained(tmp_path).eos_token_id == [1, 3, 4, 5]


@pytest.mark.parametrize("entry", ["num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers"])
def test_layers_that_predict_further_tokens_are_not_promised_any_more(entry: str, tmp_path: Path) -> None:
    stock = transformers.DeepseekV3Config if entry != "mtp_num_hidden_layers" else transformers.LlamaConfig
    config = renumbered(stock(**{**SMALL, "num_key_value_heads": 4, entry: 2}))
    config.save_pretrained(tmp_path)
    assert getattr(stock.from_pretrained(tmp_path), entry) == 0
