"""Parameters and FLOPs of a stack, from the configuration alone, against closed forms and the real model."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MobileNetV1Config,
    Qwen3MoeConfig,
    ResNetConfig,
)

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.layer_stack import measure_stack
from sglp_core.structure.runs import Stage

LLAMA = LlamaConfig(
    vocab_size=99,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    architectures=["LlamaForCausalLM"],
)
TOKENS = 16


def test_a_llama_layer_has_the_parameters_and_flops_of_its_matrices() -> None:
    d, h, kv = 32, 48, 16
    matrices = d * d * 2 + d * kv * 2 + 3 * d * h
    stack = measure_stack(LLAMA, TOKENS)
    for layer in stack.layers:
        assert layer.parameters == matrices + 2 * d
        # Two per multiply-add; the scores and the weighted values are T × T × d each.
        assert layer.flops == 2 * TOKENS * matrices + 2 * 2 * TOKENS * TOKENS * d
    assert stack.total_parameters == 99 * d + 5 * (matrices + 2 * d) + d
    assert stack.total_flops == 5 * stack.layers[0].flops + 2 * TOKENS * d * 99


@pytest.mark.parametrize(
    ("stock", "config"),
    [
        (LlamaForCausalLM, LLAMA),
        (GPT2LMHeadModel, GPT2Config(vocab_size=99, n_embd=32, n_layer=5, n_head=4, architectures=["GPT2LMHeadModel"])),
    ],
)
def test_the_whole_equals_the_real_model(stock: type, config: transformers.PretrainedConfig) -> None:
    model = stock(config).eval()
    stack = measure_stack(config, TOKENS)
    assert stack.total_parameters == sum(p.numel() for p in model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long), use_cache=False)
    assert stack.total_flops == counter.get_total_flops()


def test_a_resnet_50_has_the_figures_that_other_counters_give() -> None:
    config = ResNetConfig(num_labels=1000, architectures=["ResNetForImageClassification"])
    stack = measure_stack(config, TOKENS, (3, 224, 224))
    # Those that torchvision states for its weights: 25,557,032 parameters and 4.089 billion multiply-adds.
    assert stack.total_parameters == 25_557_032
    assert stack.total_flops / 2e9 == pytest.approx(4.089, abs=5e-4)
    # 3, 4, 6 and 3 blocks, of which the first of each stage stays.
    assert stack.stages == (Stage(0, 2), Stage(2, 5), Stage(5, 10), Stage(10, 12))


def test_a_model_that_looks_at_values_is_measured_all_the_same() -> None:
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    config = DebertaV2Config(**sizes, num_attention_heads=4, relative_attention=True, pos_att_type=["c2p", "p2c"])
    config.architectures = ["DebertaV2ForMaskedLM"]
    stack = measure_stack(config, TOKENS)
    assert stack.total_parameters == sum(p.numel() for p in DebertaV2ForMaskedLM(config).parameters())
    # Queries, keys, values, output and the two matrices of the feed-forward part, two per multiply-add, at least.
    assert all(layer.flops > 2 * TOKENS * (4 * 32 * 32 + 2 * 32 * 48) for layer in stack.layers)


def test_experts_that_a_token_does_not_reach_cost_no_flops() -> None:
    sizes = {"vocab_size": 99, "hidden_size": 32, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}

    def flops(experts: int, reached: int) -> int:
        config = Qwen3MoeConfig(**sizes, **heads, num_experts=experts, num_experts_per_tok=reached)
        config.architectures = ["Qwen3MoeForCausalLM"]
        return measure_stack(config, TOKENS).layers[0].flops

    # One more expert for every token is three matrices; one more to choose from is a row of the router.
    assert flops(4, 3) - flops(4, 2) == 2 * TOKENS * 3 * 32 * 16
    assert flops(5, 2) - flops(4, 2) == 2 * TOKENS * 32


def test_layers_are_named_as_in_the_model() -> None:
    assert [layer.name for layer in measure_stack(LLAMA, TOKENS).layers] == [f"model.layers.{i}" for i in range(5)]


def test_the_error_without_a_stack_says_what_was_looked_for() -> None:
    config = MobileNetV1Config(architectures=["MobileNetV1ForImageClassification"])
    with pytest.raises(UnsupportedArchitecture, match="looked for"):
        measure_stack(config, TOKENS)
