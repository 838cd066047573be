"""Repairs are the same wherever the weights lie, in whatever batches, and of several plans at once."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sglp_core.execution import native_types
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.progress import silent_phase
from sglp_core.repair.named_repairs import combinations
from sglp_core.repair.plan_in_walk import Request
from sglp_core.repair.repair import Repaired, repair, repair_plans
from sglp_core.repair.walk import RepairWalk
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.layer_stack import find_stack
from sglp_core.tasks import Batch, rebatch, split
from tests.sglp_core.execution.placements import CASES, from_disk, from_memory, resident, save

# DistilBERT and BERT are post-norm, Gemma 3 has a norm behind each branch.
LANGUAGE = [name for name in CASES if name != "ViTForImageClassification"]
REMOVED = (1, 3)


def batches_of(size: int) -> list[Batch]:
    """Thirty-two texts, one of them padded."""
    ids = torch.randint(5, 99, (32, 24), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    return list(rebatch([Batch({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, -100))], size))


def alike(repaired: Repaired, expected: Repaired, tolerance: float) -> None:
    """Whether weights are as near as the tolerance, relative to the largest, and what was tried went the same way."""
    assert repaired.changes.keys() == expected.changes.keys()
    for name, value in expected.changes.items():
        assert repaired.changes[name].dtype == value.dtype
        assert apart(repaired.changes[name], value) < tolerance, name
    for one, other in zip(repaired.attempts, expected.attempts, strict=True):
        assert (one.cut, one.repair, one.accepted, one.built) == (other.cut, other.repair, other.accepted, other.built)
        for figure in ("alpha", "error_before", "error_after"):
            value, expected_value = getattr(one, figure), getattr(other, figure)
            assert (value is None) == (expected_value is None)
            assert value is None or value == pytest.approx(expected_value, rel=10 * tolerance, abs=tolerance)


def before_the_exit(model: LayeredModel, batches: Sequence[Batch], removed: tuple[int, ...] = REMOVED) -> Repaired:
    """What is changed before the exit, where all of it may be dropped."""
    fitted, judged = split(batches)
    held_out = frozenset(range(len(fitted), len(fitted) + len(judged)))
    walk = RepairWalk(
        WriteFinder(model, fitted[0]), [*fitted, *judged], [Request(removed, held_out)], combinations("auto")
    )
    ((changes, attempts, quality),) = walk.run(silent_phase(), judges_unrepaired=True)
    return Repaired(changes, tuple(attempts), 0, 0, quality)


def apart(value: Tensor, expected: Tensor) -> float:
    return float((value.float() - expected.float()).abs().max() / expected.float().abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_model_is_repaired_the_same_wherever_its_weights_lie(
    name: str, size: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_types, "_is_native", lambda *_: True)
    model = save(name, tmp_path / "model", dtype)
    batches = batches_of(size)
    expected = before_the_exit(resident(model), batches)
    assert expected.changes
    assert {value.dtype for value in expected.changes.values()} == {dtype}
    for placed in (from_memory(model), from_disk(tmp_path / "model")):
        alike(before_the_exit(placed, batches), expected, 1e-4)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM"])
def test_where_a_half_type_is_emulated_repairs_are_those_of_the_float32_model_rounded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_types, "_is_native", lambda *_: False)
    model = save(name, tmp_path / "model", torch.bfloat16)
    expected = before_the_exit(resident(copy.deepcopy(model).float()), batches_of(8))
    assert any(attempt.accepted for attempt in expected.attempts)
    first = f"{find_stack(model)}.0."
    for placed in (from_memory(model), from_disk(tmp_path / "model")):
        repaired = before_the_exit(placed, batches_of(8))
        assert [a.accepted for a in repaired.attempts] == [a.accepted for a in expected.attempts]
        assert repaired.changes.keys() == expected.changes.keys()
        for changed, value in repaired.changes.items():
            assert value.dtype == torch.bfloat16
            # At the first cut one rounding, of at most 2⁻⁸; what follows is fitted to streams of rounded weights.
            tolerance = 2**-8 + 1e-4 if changed.startswith(first) else 2**-5
            assert apart(value, expected.changes[changed]) < tolerance, changed


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForMaskedLM"])
def test_several_plans_at_once_are_repaired_as_one_by_one(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path / "model")
    plans = [(1, 3), (1, 2), (3,), (1, 3)]
    batches = batches_of(2)
    for placed in (resident(model), from_memory(model)):
        together = repair_plans(placed, batches, plans, "auto")
        for removed, repaired in zip(plans, together, strict=True):
            alike(repaired, repair(placed, batches, removed, "auto"), 1e-4)


def test_images_are_repaired_the_same_wherever_the_weights_lie(tmp_path: Path) -> None:
    model = save("ViTForImageClassification", tmp_path / "model")
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batches = [Batch({"pixel_values": part}, torch.arange(len(part)) % 2) for part in images.split(6)]
    expected = repair(resident(model), batches, REMOVED, "auto")
    assert any(attempt.built for attempt in expected.attempts)
    for placed in (from_memory(model), from_disk(tmp_path / "model")):
        alike(repair(placed, batches, REMOVED, "auto"), expected, 1e-4)
