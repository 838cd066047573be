"""What a healing is estimated to cost is what it computes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from sglp_core import Calibration, Healing, Options
from sglp_core.estimation.model_outline import read_outline
from sglp_core.estimation.seconds import Speed, expected_seconds
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.healing.heal import Training, heal
from sglp_core.tasks import Batch
from tests.worker.tiny_model import write_tiny_model

TOKENS = 16
REMOVED = (2, 3)


@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_the_estimated_operations_are_those_that_are_counted(tmp_path: Path, alpha: float) -> None:
    model_folder = write_tiny_model(tmp_path / "model")
    # Eager attention, of which all products are counted.
    model = AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation="eager").eval()
    ids = torch.arange(16)[:, None] + torch.arange(TOKENS) % 5
    data = list(Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids).split(4))
    # So small a rate that nothing gets worse, which would end the training.
    healing = Healing(16, 1e-9, alpha, "all", batch_size=6)
    with FlopCounterMode(display=False) as counter:
        healed = heal(LayeredModel(model, "model.layers", "causal_lm"), data, Variant(REMOVED), Training(healing))
    steps = healed.curve[-1].step
    outline = read_outline(str(model_folder), None, TOKENS, tmp_path, None)
    options = Options(
        calibration=Calibration(samples=16, sequence_length=TOKENS, batch_size=4),
        healing=Healing(steps, 1e-9, alpha, "all", batch_size=6),
    )
    # A second for each operation.
    expected = expected_seconds(outline, len(REMOVED), options, Speed(1.0, 1.0))["healing"]
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.15)
    limited = replace(options, healing=replace(options.healing, max_seconds=7.0))
    assert expected_seconds(outline, len(REMOVED), limited, Speed(1.0, 1.0))["healing"] == 7.0
    assert "healing" not in expected_seconds(outline, 2, Options(), Speed(1.0, 1.0))
