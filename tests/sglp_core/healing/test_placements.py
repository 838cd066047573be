"""Healing trains the same weights wherever the model's weights lie, and is refused where they have no room."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sglp_core import Calibration, Evaluation, Method, Target, compress
from sglp_core.errors import OutOfMemory
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.healing import required_memory
from sglp_core.healing.heal import Healed, Training, heal
from sglp_core.options import Healing, Memory, Options
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch
from tests.sglp_core.execution.placements import CASES, GROUPED, from_disk, from_memory, resident, save
from tests.sglp_core.recorded_progress import Recorder
from tests.worker.tiny_model import write_text, write_tiny_model

TIED = {**GROUPED, "tie_word_embeddings": True}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.0])
@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
@pytest.mark.parametrize("precision", ["full", "mixed"])
def test_healed_weights_are_the_same_in_every_placement(
    precision: Any, trained: Any, alpha: float, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "LlamaForCausalLM", TIED if tied else GROUPED)
    model = save("LlamaForCausalLM", tmp_path / "model")
    # Text that can be learned: the same few tokens in the same order.
    rows = torch.arange(12)[:, None]
    windows = [5 + (ids * 7 % 10) for ids in (rows + torch.arange(16)).split(2)]
    data = [Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids) for ids in windows]
    # As if by a repair: of a layer that is trained, and of one that may be.
    repaired = {
        name: model.get_parameter(name).detach() * 1.1
        for name in ("model.layers.0.self_attn.o_proj.weight", "model.layers.4.mlp.down_proj.weight")
    }

    def healed(layered: LayeredModel) -> Healed:
        healing = Healing(8, 3e-4 if trained == "all" else 3e-3, alpha, trained, precision=precision)
        return heal(layered, data, Variant((2,), repaired), Training(healing, seed=0))

    expected = healed(resident(model))
    assert expected.step > 0
    on_disk = from_disk(tmp_path / "model")
    for found in (healed(from_memory(model)), healed(on_disk)):
        assert found.trained_tensors == expected.trained_tensors
        assert [point.step for point in found.curve] == [point.step for point in expected.curve]
        assert found.changes.keys() == expected.changes.keys()
        for name, value in expected.changes.items():
            torch.testing.assert_close(found.changes[name], value, rtol=1e-4, atol=1e-5)
    assert all(parameter.is_meta for parameter in on_disk.model.parameters())


@pytest.mark.parametrize("trained", ["neighbours", "lora"])
def test_one_layer_at_a_time_is_in_memory(trained: Any, tmp_path: Path) -> None:
    save("LlamaForCausalLM", tmp_path / "model")
    on_disk = from_disk(tmp_path / "model")
    held: set[tuple[int, ...]] = set()

    def look(*_: Any) -> None:
        held.add(tuple(i for i, layer in enumerate(on_disk.layers) if not layer.mlp.up_proj.weight.is_meta))

    for layer in on_disk.layers:
        layer.mlp.register_forward_hook(look)
    ids = torch.arange(5, 37).view(2, 16)
    data = [Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)]
    heal(on_disk, data, Variant((2,)), Training(Healing(2, trained=trained)))
    assert held == {(0,), (1,), (2,), (3,), (4,)}


def test_half_precision_that_is_computed_with_in_single_is_healed_and_handed_back_in_half(tmp_path: Path) -> None:
    model = save("LlamaForCausalLM", tmp_path / "model", torch.bfloat16)
    ids = 5 + (torch.arange(12)[:, None] + torch.arange(16)) * 7 % 10
    data = [Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)]
    healed = heal(from_memory(model), data, Variant((2,)), Training(Healing(4, 3e-3)))
    assert healed.step > 0
    assert {tensor.dtype for tensor in healed.changes.values()} == {torch.bfloat16}


@pytest.mark.parametrize("memory", ["in_memory", "streaming"])
def test_healing_without_room_is_refused_before_anything_is_measured(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "model")
    write_text(tmp_path / "text.txt")
    reporter = Recorder()

    def compressed(free: int, trained: Any) -> CompressReport:
        monkeypatch.setattr(required_memory, "free_bytes", lambda _: free)
        return compress(
            str(tmp_path / "model"),
            Target("layers", 0.17),
            tmp_path / trained,
            Options(
                method=Method(repair="none"),
                calibration=Calibration(str(tmp_path / "text.txt"), 8, 16, 4),
                evaluation=Evaluation(samples=4, controls=False),
                healing=Healing(2, trained=trained),
            ),
            RunContext(cache=tmp_path / "cache", memory=memory, reporter=reporter),
        )

    # Two removed layers may have four neighbours of 9,280 parameters; beside them are the last norm and the head.
    room = (4 * 9280 + 32 + 23 * 32) * 20
    with pytest.raises(OutOfMemory, match=r"healing by `neighbours` takes up to 1 MB .*; leave healing out"):
        compressed(room - 1, "neighbours")
    with pytest.raises(OutOfMemory, match=r"healing by `lora` .*train `neighbours` instead"):
        compressed(room, "lora")
    # Everything but two layers, where no head is tied.
    every = (4 * 9280 + 32 + 2 * 23 * 32) * 20
    with pytest.raises(OutOfMemory, match=r"healing by `all` .*train `neighbours` instead"):
        compressed(every - 1, "all")
    assert {report.phase for report in reporter.reports} <= {"fetching", "opening"}
    assert compressed(every, "all").healing.trained_tensors
    assert compressed(room, "neighbours").healing.trained_tensors
