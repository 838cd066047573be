"""Layers removed, written, reloaded in a fresh process: every row must give the logits of the bypassed model."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sglp_core import architectures
from sglp_core.artifact.verify import Written, verify
from sglp_core.evaluation.logits import probe_logits
from sglp_core.execution.variant import bypassed
from sglp_core.fresh_process import FreshProcesses
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import find_stack, layers_of, measure_stack
from sglp_core.tasks import task_of

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
IMAGES = {**SMALL, "image_size": 16, "patch_size": 8}
WINDOWED = {**GROUPED, "sliding_window": 8}
# (2, 1, 4, 2) blocks: some stages have no layer to remove, and ratios of stages, depths and layers are all different.
STAGED = {"depths": [3, 1, 4, 2], "hidden_sizes": [8, 16, 24, 32], "num_labels": 5}
CONVOLUTIONS = {**STAGED, "embedding_size": 8}
HIERARCHY = {"depths": [3, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 2]}
SWIN = {"depths": [2, 6], "num_heads": [2, 2], "embed_dim": 16, "window_size": 4, "image_size": 64, "patch_size": 4}
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
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
STATES = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}


def types(letters: str) -> list[str]:
    words = {"l": "linear_attention", "f": "full_attention", "s": "sliding_attention", "c": "conv", "m": "mamba"}
    return [words[letter] for letter in letters]


# Layers of several kinds, said layer by layer in many ways: lists, lists of numbers, boundaries, numbers by layer.
HYBRIDS: dict[str, dict[str, Any]] = {
    "Qwen3NextForCausalLM": {**GROUPED, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16},
    "Qwen3MoeForCausalLM": {**GROUPED, **EXPERTS, "mlp_only_layers": [0, 3]},
    "GptOssForCausalLM": {**WINDOWED, **EXPERTS, "layer_types": types("sfsfsfsf")},
    "Llama4ForCausalLM": {**GROUPED, **EXPERTS, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
    "DeepseekV3ForCausalLM": {
        **{**GROUPED, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1},
        **{"topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 2, "q_lora_rank": 8},
        **{"kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    },
    "Lfm2ForCausalLM": {**GROUPED, "layer_types": types("ccfccfcc")},
    "Lfm2MoeForCausalLM": {**GROUPED, **EXPERTS, "layer_types": types("ccfccfcc"), "num_dense_layers": 2},
    "FalconH1ForCausalLM": {**GROUPED, **STATES, "mamba_d_ssm": 64},
    "BambaForCausalLM": {**GROUPED, **STATES, "attn_layer_indices": [2, 5, 7]},
    "GraniteMoeHybridForCausalLM": {
        **{**GROUPED, **EXPERTS, **STATES, "layer_types": types("mmfmmfmm"), "shared_intermediate_size": 48},
    },
    "Gemma4ForCausalLM": {
        **{**WINDOWED, "layer_types": types("ssfssfsf"), "hidden_size_per_layer_input": 0, "global_head_dim": 16},
    },
    "ModernBertForMaskedLM": {**SMALL, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 3},
    "DebertaV2ForMaskedLM": SMALL,
    "Dinov2ForImageClassification": IMAGES,
    "BeitForImageClassification": IMAGES,
}
STAGED_CASES: dict[str, tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "ResNetForImageClassification": ({**CONVOLUTIONS, "layer_type": "basic"}, ((0, 4), (2, 3))),
    "RegNetForImageClassification": ({**CONVOLUTIONS, "groups_width": 8}, ((0, 4), (2, 3))),
    "ConvNextForImageClassification": ({**STAGED, "layer_scale_init_value": 1.0}, ((0, 6), (4, 9))),
    "ConvNextV2ForImageClassification": (STAGED, ((0, 6), (4, 9))),
    "BitForImageClassification": ({**CONVOLUTIONS, "num_groups": 4}, ((0, 4), (2, 3))),
    "CifarResNetForImageClassification": ({"depths": [3, 3, 4], "hidden_sizes": [8, 16, 32]}, ((0, 4), (1, 6))),
    "CifarVGGForImageClassification": ({"depths": [2, 3, 4], "hidden_sizes": [8, 16, 32]}, ((1, 3), (4, 5))),
    "SegformerForImageClassification": ({**HIERARCHY, "decoder_hidden_size": 16}, ((0,), (1, 6))),
    "PvtForImageClassification": ({**HIERARCHY, "image_size": 64}, ((0,), (1, 6))),
    "PoolFormerForImageClassification": ({**STAGED, "layer_scale_init_value": 1.0}, ((0, 6), (4, 9))),
    "FocalNetForImageClassification": ({"depths": [3, 2, 2, 2], "embed_dim": 8, "image_size": 64}, ((0,), (1, 6))),
    # Blocks alternate in form: two neighbours go together, or what ends a stage.
    "Swinv2ForImageClassification": (SWIN, ((2, 3), (5, 6), (1, 7))),
    "SwinForImageClassification": (SWIN, ((2, 3), (5, 6), (1, 7), (4, 5, 6, 7))),
}


@pytest.mark.parametrize("name", [*CASES, *HYBRIDS])
def test_a_pruned_model_reloads_as_planned(name: str, tmp_path: Path, fresh: FreshProcesses) -> None:
    stock = getattr(transformers, name)
    written = []
    for removed in ((2, 5), (0, 3), (4, 7)) if name in CASES else ((2, 5), (3, 4), (1, 2, 3)):
        torch.manual_seed(0)
        model = stock(stock.config_class(**(CASES | HYBRIDS)[name], architectures=[name])).eval()
        stack = measure_stack(deepcopy(model.config), 20)
        path = stack.path
        if not stack.can_remove(removed):
            # The last attention, or the last experts.
            assert stack.vanished_kind(removed)
            continue
        if model.main_input_name == "pixel_values":
            probe, task = {"pixel_values": torch.randn(2, 3, 16, 16)}, "image_classification"
        else:
            probe = {"input_ids": torch.randint(5, 99, (2, 20))}
            task = "causal_lm" if "Masked" not in name else "masked_lm"
        with bypassed(layers_of(model, path), removed):
            expected = probe_logits(model, probe)
        remove_layers(model, path, removed)
        directory = tmp_path / "-".join(map(str, removed))
        model.save_pretrained(directory)
        signatures = tuple(layer.signature for layer in stack.layers if layer.index not in removed)
        logits = probe_logits(model, probe)
        written.append(Written(directory, task, probe, logits, expected, path=str(path), signatures=signatures))
    assert len(written) >= 2
    for proof in verify(written, fresh):
        assert proof.problems == []


def test_what_the_service_says_of_architectures_is_what_is_tested_here() -> None:
    told = json.loads((Path(__file__).parents[2] / "api" / "architectures.json").read_text())["tested"]
    found = {}
    for name in (*CASES, *HYBRIDS, *STAGED_CASES):
        stock = getattr(transformers, name, None) or getattr(architectures, name)
        found[name] = {"class": name, "model_type": stock.config_class.model_type, "task": task_of(stock)}
    assert {row["class"]: row for row in told} == found


def test_a_window_in_the_wrong_layer_is_seen_though_the_logits_agree(tmp_path: Path, fresh: FreshProcesses) -> None:
    torch.manual_seed(0)
    kinds = types("sfsfsfsf")
    # Longer than the probe: all layers see all of it.
    values = {**GROUPED, "use_sliding_window": True, "sliding_window": 512, "layer_types": kinds}
    config = transformers.Qwen2Config(**values, architectures=["Qwen2ForCausalLM"])
    model = transformers.Qwen2ForCausalLM(config).eval()
    stack = measure_stack(deepcopy(config), 20)
    probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    with bypassed(layers_of(model, stack.path), (1, 2)):
        expected = probe_logits(model, probe)
    remove_layers(model, stack.path, (1, 2))
    model.config.layer_types = kinds[:6]
    model.config.layer_types[1:3] = kinds[2:0:-1]
    model.save_pretrained(tmp_path / "model")
    signatures = tuple(layer.signature for layer in stack.layers if layer.index not in (1, 2))
    artifact = Written(
        tmp_path / "model",
        "causal_lm",
        probe,
        probe_logits(model, probe),
        expected,
        path="model.layers",
        signatures=signatures,
    )
    (proof,) = verify([artifact], fresh)
    assert proof.reload_difference == 0
    assert proof.other_layers == (1, 2)
    assert "config.json" in proof.problems[0]


def test_half_precision_hides_no_small_difference(tmp_path: Path, fresh: FreshProcesses) -> None:
    """GPT-2 can weigh attention by the number of the layer, which no entry of the configuration says layer by layer."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**CASES["GPT2LMHeadModel"], scale_attn_by_inverse_layer_idx=True)
    model = transformers.GPT2LMHeadModel(config).eval().bfloat16()
    probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    with bypassed(layers_of(model, "transformer.h"), (2, 5)):
        expected = probe_logits(model, probe)
    remove_layers(model, "transformer.h", (2, 5))
    model.save_pretrained(tmp_path / "model")
    artifact = Written(tmp_path / "model", "masked_lm", probe, probe_logits(model, probe), expected)
    (proof,) = verify([artifact], fresh)
    assert 0 < max(proof.reload_difference, proof.bypass_difference) < 8e-2
    assert proof.problems


def randomised(model: Any) -> Any:
    """Batch norms that have seen something: fresh ones are almost the identity, and a wrong one would not show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize("name", STAGED_CASES)
def test_a_staged_model_reloads_as_planned(name: str, tmp_path: Path, fresh: FreshProcesses) -> None:
    settings, removals = STAGED_CASES[name]
    stock = getattr(transformers, name, None) or getattr(architectures, name)
    probe = {"pixel_values": torch.randn(2, 3, 64, 64)}
    written = []
    for removed in removals:
        torch.manual_seed(0)
        model = randomised(stock(stock.config_class(**settings)))
        before = sum(p.numel() for p in model.parameters())
        model.config.architectures = [name]
        stack = measure_stack(model.config, 1)
        assert stack.path == find_stack(model)
        assert stack.can_remove(removed)
        with bypassed(layers_of(model, stack.path), removed):
            expected = probe_logits(model, probe)
        remove_layers(model, stack.path, removed)
        assert sum(model.config.depths) == sum(settings["depths"]) - len(removed)
        assert before - sum(p.numel() for p in model.parameters()) == sum(stack.layers[i].parameters for i in removed)
        left = stack.total_flops - sum(stack.layers[i].flops for i in removed)
        assert measure_stack(model.config, 1).total_flops == left
        directory = tmp_path / "-".join(map(str, removed))
        model.save_pretrained(directory)
        written.append(Written(directory, "image_classification", probe, probe_logits(model, probe), expected))
    for proof in verify(written, fresh):
        assert proof.problems == []


@pytest.mark.parametrize("removed", [(3,), (2, 3, 4), (4, 6)])
def test_a_removal_that_would_turn_the_alternation_round_is_forbidden_and_verification_would_see_it(
    removed: tuple[int, ...], tmp_path: Path, fresh: FreshProcesses
) -> None:
    torch.manual_seed(0)
    model = transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN, initializer_range=0.5)).eval()
    model.config.architectures = ["SwinForImageClassification"]
    stack = measure_stack(model.config, 1)
    assert not stack.can_remove(removed)
    probe = {"pixel_values": torch.randn(2, 3, 64, 64)}
    with bypassed(layers_of(model, stack.path), removed):
        expected = probe_logits(model, probe)
    remove_layers(model, stack.path, removed)
    model.save_pretrained(tmp_path / "model")
    artifact = Written(tmp_path / "model", "image_classification", probe, probe_logits(model, probe), expected)
    (proof,) = verify([artifact], fresh)
    assert proof.problems
