"""Layers removed, written, reloaded in a fresh process: every row must give the logits of the bypassed model."""

from pathlib import Path

import pytest
import torch
import transformers

from sglp_core.layers import find_stack, layers_of
from sglp_core.surgery import bypassed, remove_layers
from sglp_core.verification import Written, probe_logits, verify

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
IMAGES = {**SMALL, "image_size": 16, "patch_size": 8}
WINDOWED = {**GROUPED, "sliding_window": 8}
CASES = {
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": WINDOWED,
    "Qwen2ForCausalLM": {**WINDOWED, "use_sliding_window": True, "max_window_layers": 4},
    "Qwen3ForCausalLM": GROUPED,
    "Gemma2ForCausalLM": WINDOWED,
    "Gemma3ForCausalLM": WINDOWED,
    "Phi3ForCausalLM": GROUPED,
    "GPT2LMHeadModel": {"vocab_size": 99, "n_embd": 32, "n_layer": 8, "n_head": 4},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPTNeoXForCausalLM": SMALL,
    "FalconForCausalLM": SMALL,
    "BertForMaskedLM": SMALL,
    "RobertaForMaskedLM": SMALL,
    "DistilBertForMaskedLM": {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 8, "n_heads": 4},
    "ViTForImageClassification": IMAGES,
    "DeiTForImageClassification": IMAGES,
}


@pytest.mark.parametrize("name", CASES)
def test_a_pruned_model_reloads_as_planned(name: str, tmp_path: Path) -> None:
    stock = getattr(transformers, name)
    written = []
    for removed in ((2, 5), (0, 3), (4, 7)):
        torch.manual_seed(0)
        model = stock(stock.config_class(**CASES[name])).eval()
        path = find_stack(model)
        if model.main_input_name == "pixel_values":
            probe, task = {"pixel_values": torch.randn(2, 3, 16, 16)}, "classification"
        else:
            probe = {"input_ids": torch.randint(5, 99, (2, 20))}
            task = "causal_lm" if "Masked" not in name else "masked_lm"
        with bypassed(layers_of(model, path), removed):
            expected = probe_logits(model, probe)
        remove_layers(model, path, removed)
        directory = tmp_path / "-".join(map(str, removed))
        model.save_pretrained(directory)
        written.append(Written(directory, task, probe, probe_logits(model, probe), expected))
    for proof in verify(written, tmp_path):
        assert proof.problems == []
