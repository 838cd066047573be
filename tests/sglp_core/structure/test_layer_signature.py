"""Layer signatures and rules by position, checked against models that are built from the renumbered configuration."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sglp_core import Calibration, Evaluation, Target, compress
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_signature import keeps_signatures, layer_signatures, require_unchanged_layers
from sglp_core.structure.layer_stack import LayerStack, measure_stack
from tests.worker.tiny_model import write_text, write_tiny_model

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
MAMBA = {"mamba_d_state": 8, "mamba_dt_rank": 4, "num_experts": 2, "use_mamba_kernels": False}
# Two recurrent layers and one with attention, repeated, by position alone.
GRIFFIN = {**SMALL, "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8}


def config_of(name: str, **values: Any) -> Any:
    config = getattr(transformers, name).config_class(**values)
    config.architectures = [name]
    return config


def measured(name: str, **values: Any) -> LayerStack:
    return measure_stack(config_of(name, **values), 16)


def test_layers_that_the_configuration_lists_go_one_by_one() -> None:
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2 + ["sliding_attention"] * 2
    stack = measured("Gemma3ForCausalLM", **SMALL, layer_types=kinds, sliding_window=8)
    signatures = [layer.signature for layer in stack.layers]
    assert [signatures.index(each) for each in signatures] == [0, 0, 2, 0, 0, 2, 0, 0]
    assert {layer.position_signature for layer in stack.layers} == {""}
    assert stack.can_remove((1,))
    assert stack.can_remove((2, 4))


def test_of_layers_made_by_their_place_exactly_those_can_go_that_leave_the_others_what_they_are() -> None:
    config = config_of("RecurrentGemmaForCausalLM", **GRIFFIN)
    stack = measure_stack(config, 16)
    assert isinstance(stack.path, str)
    signatures = [layer.signature for layer in stack.layers]
    sets = [each for count in (1, 2, 3) for each in itertools.combinations(range(8), count)]
    # Runs on their own: two that only together leave all others in place are one removal too clever.
    allowed = {each for each in sets if stack.can_remove(each)}
    right = {each for each in sets if keeps_signatures(config, stack.path, signatures, each)}
    kept = {each for each in right if not stack.vanished_kind(each)}
    assert allowed <= kept
    one_run = {each for each in kept if each == tuple(range(each[0], each[-1] + 1))}
    assert allowed >= one_run
    assert (0, 1, 2) in allowed
    assert (1,) not in allowed


def test_a_family_with_one_attention_in_eight_loses_whole_periods() -> None:
    values = {**SMALL, **MAMBA, "num_hidden_layers": 16, "attn_layer_period": 8, "attn_layer_offset": 4}
    stack = measured("JambaForCausalLM", **values, expert_layer_period=2, expert_layer_offset=1)
    assert stack.can_remove(tuple(range(3, 11)))
    assert not stack.can_remove((3,))
    assert not stack.can_remove((3, 4))


@pytest.mark.parametrize(
    ("name", "more", "word"),
    [
        # Attention is scaled by a number computed from the position.
        ("MiniCPM3ForCausalLM", {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}, "place"),
        # The head that predicts contacts reads all layers.
        ("EsmForMaskedLM", {"pad_token_id": 1, "mask_token_id": 2}, "parameters outside"),
        # One block serves several layers.
        ("ZambaForCausalLM", {"attn_layer_period": 3, "attn_layer_offset": 2, "n_mamba_heads": 2}, "share"),
    ],
)
def test_a_family_that_no_configuration_says_smaller_is_refused_at_once(
    name: str, more: dict[str, Any], word: str
) -> None:
    with pytest.raises(UnsupportedArchitecture, match=word):
        measured(name, **{**SMALL, **more})


def test_removing_a_layer_with_a_special_role_is_refused(tmp_path: Path) -> None:
    """Gemma 4 makes the last layer attend to all, whatever its configuration says."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2 + ["sliding_attention", "full_attention"]
    config = config_of(
        "Gemma4ForCausalLM", **SMALL, layer_types=kinds, hidden_size_per_layer_input=0, global_head_dim=16
    )
    config.save_pretrained(tmp_path)
    stack = measure_stack(config, 16)
    require_unchanged_layers(tmp_path, stack, (1, 5))
    with pytest.raises(UnsupportedArchitecture, match="protect"):
        require_unchanged_layers(tmp_path, stack, (7,))


def test_weights_numbers_and_traces_of_a_run_do_not_change_the_signature() -> None:
    torch.manual_seed(0)
    config = transformers.FalconConfig(vocab_size=99, hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    model = transformers.FalconForCausalLM(config).eval()
    before = layer_signatures(model.transformer.h)
    assert len(set(before)) == 1
    model.transformer.h[1].self_attention.layer_idx = 7
    model.transformer.h[0].self_attention.dense.weight.data.zero_()
    assert layer_signatures(model.transformer.h) == before
    model.transformer.h[2].self_attention.num_heads = 2
    assert len(set(layer_signatures(model.transformer.h))) == 2


def test_a_model_of_periods_is_compressed_by_a_period(tmp_path: Path) -> None:
    """Verification ends the job where any layer is not what it was."""
    model, text = write_tiny_model(tmp_path / "model"), write_text(tmp_path / "text.txt")
    torch.manual_seed(0)
    config = transformers.RecurrentGemmaConfig(**{**GRIFFIN, "vocab_size": 23, "num_hidden_layers": 9})
    transformers.RecurrentGemmaForCausalLM(config).save_pretrained(model)
    report = compress(
        str(model),
        Target("layers", 0.25),
        tmp_path / "out",
        options=Options(
            calibration=Calibration(str(text), samples=12, sequence_length=16, batch_size=4),
            evaluation=Evaluation(samples=4, controls=False),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    first, *rest = report.plan.removed_layers
    assert rest == [first + 1, first + 2]
    assert report.verification.other_layers == ()
