"""How many positions a model has, against where it really fails."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sglp_core import Calibration, SGLPError, Target, compress
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from sglp_core.structure.max_positions import max_positions
from tests.worker.tiny_model import write_tiny_model

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TABLE = {**SMALL, "max_position_embeddings": 40}
CASES: dict[str, dict[str, Any]] = {
    "BertForMaskedLM": TABLE,
    "RobertaForMaskedLM": TABLE,
    "MPNetForMaskedLM": TABLE,
    "DebertaV2ForMaskedLM": TABLE,
    "OPTForCausalLM": {**TABLE, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPT2LMHeadModel": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
    "LlamaForCausalLM": TABLE,
    "BloomForCausalLM": SMALL,
}


@pytest.mark.parametrize("name", CASES)
def test_the_length_of_the_table_is_the_longest_text_that_the_model_reads(name: str) -> None:
    stock = getattr(transformers, name)
    config = stock.config_class(**CASES[name])
    config.architectures = [name]
    model = stock(config).eval()

    def reads(tokens: int) -> bool:
        try:
            with torch.no_grad():
                model(input_ids=torch.full((1, tokens), 7))
        except (IndexError, RuntimeError):
            return False
        return True

    longest = max(tokens for tokens in range(30, 50) if reads(tokens))
    assert max_positions(config) == (None if longest == 49 else longest)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "BertForMaskedLM"])
def test_windows_that_are_too_long_are_refused_before_anything_is_loaded(name: str, tmp_path: Path) -> None:
    """Some such models cannot even be looked at with so many tokens; it must be the tokens that are told of."""
    stock = getattr(transformers, name)
    tokenizer = write_tiny_model(tmp_path / "model")
    stock(stock.config_class(**CASES[name])).save_pretrained(tokenizer)
    with pytest.raises(SGLPError, match="40 positions") as refused:
        compress(
            str(tmp_path / "model"),
            Target("layers", 0.25),
            tmp_path / "out",
            options=Options(calibration=Calibration(sequence_length=41)),
            context=RunContext(cache=tmp_path / "cache"),
        )
    assert refused.value.code == "bad_calibration"
    assert not (tmp_path / "out").exists()
