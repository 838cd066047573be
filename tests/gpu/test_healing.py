"""Healing on an accelerator trains the same weights wherever the model's weights lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sglp_core.execution.disk_home import DiskHome, empty_model
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weights import MemoryHome, OnloadedWeights
from sglp_core.healing.heal import Healed, Training, heal
from sglp_core.options import Healing
from sglp_core.structure.layer_stack import layers_of
from sglp_core.tasks import Batch
from tests.sglp_core.execution.placements import resident, save

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator here")

PATH = "model.layers"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
def test_healed_weights_are_the_same_in_every_placement(trained: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    ids = [5 + (rows * 7 % 10) for rows in (torch.arange(24)[:, None] + torch.arange(16)).split(2)]
    data = [Batch({"input_ids": each, "attention_mask": torch.ones_like(each)}, each) for each in ids]
    # So small for all of it that what AdamW makes of differences in rounding stays small.
    rate = 3e-4 if trained == "all" else 3e-3
    placements: list[Callable[[Path, Any, torch.device], LayeredModel]] = [_on_device, _in_memory, _on_disk]
    healed: list[Healed] = []
    for place in placements:
        model = save("LlamaForCausalLM", tmp_path / place.__name__, dtype)
        device = torch.accelerator.current_accelerator()
        assert device is not None
        layered = place(tmp_path / place.__name__, model, device)
        repaired = {f"{PATH}.1.mlp.down_proj.weight": model.model.layers[1].mlp.down_proj.weight.detach() * 1.1}
        healed.append(heal(layered, data, Variant((2,), repaired), Training(Healing(8, rate, 1.0, trained))))
    expected, *others = healed
    assert expected.step > 0
    for found in others:
        assert found.step == expected.step
        assert found.trained_tensors == expected.trained_tensors
        for name, value in expected.changes.items():
            tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3}
            torch.testing.assert_close(found.changes[name].cpu(), value.cpu(), **tolerance)


def _on_device(_directory: Path, model: Any, device: torch.device) -> LayeredModel:
    return resident(model.to(device))


def _in_memory(_directory: Path, model: Any, device: torch.device) -> LayeredModel:
    home = OnloadedWeights(model, layers_of(model, PATH), MemoryHome(model, device), device)
    return LayeredModel(model, PATH, "causal_lm", home=home)


def _on_disk(directory: Path, _model: Any, device: torch.device) -> LayeredModel:
    model, path = empty_model(directory)
    home = OnloadedWeights(model, layers_of(model, path), DiskHome(directory, model, path), device)
    return LayeredModel(model, path, "causal_lm", home=home, scratch=directory.parent)
