"""Layers whose hidden states are not one vector for each token are refused before a weight is read."""

from typing import Any

import pytest
import transformers

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.layer_stack import measure_stack

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
WINDOWED = {**SMALL, "attention_window": 8, "max_position_embeddings": 40}


def config_of(name: str, **settings: Any) -> Any:
    return getattr(transformers, name).config_class(**settings, architectures=[name])


@pytest.mark.parametrize(
    ("name", "settings", "shape"),
    [
        # Prompts before the text, samples in the second dimension, padding to a multiple of the window.
        (
            "CpmAntForCausalLM",
            {**SMALL, "dim_head": 8, "dim_ff": 48, "prompt_length": 4, "prompt_types": 8},
            "(1, 14, 32)",
        ),
        (
            "XLNetLMHeadModel",
            {"vocab_size": 99, "d_model": 32, "n_layer": 4, "n_head": 4, "d_inner": 48},
            "(10, 1, 32)",
        ),
        ("LongformerForMaskedLM", WINDOWED, "(1, 16, 32)"),
    ],
)
def test_other_shapes_are_refused_with_the_shape(name: str, settings: dict[str, Any], shape: str) -> None:
    with pytest.raises(UnsupportedArchitecture) as refused:
        measure_stack(config_of(name, **settings), 10)
    assert f"{shape} for 10 tokens" in str(refused.value)


def test_a_length_that_is_not_padded_is_taken() -> None:
    assert len(measure_stack(config_of("LongformerForMaskedLM", **WINDOWED), 16)) == 4


def test_layers_that_return_named_tuples_are_refused() -> None:
    settings = {"attn_layers": ["local"] * 4, "axial_pos_embds": False, "vocab_size": 99, "is_decoder": False}
    with pytest.raises(UnsupportedArchitecture, match="return a ReformerOutput"):
        measure_stack(config_of("ReformerForMaskedLM", **settings), 64)
