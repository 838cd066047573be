"""A repair of one's own: a row of the table, and everything else follows."""

import pytest
import torch
from torch import Tensor

from sglp_core import Method
from sglp_core.evaluation.quality import Quality
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.repair import REPAIRS, Attempt, Candidate, CannotFold, Cut, CutRepair, CutStreams, ModelRepair
from sglp_core.repair.contract import HeldOutQuality
from sglp_core.repair.fold import fold
from sglp_core.repair.named_repairs import combinations
from sglp_core.repair.repair import repair
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch
from tests.sglp_core.repair.repair_models import batches, build


class Unchanged:
    """Folds a factor of 1 into the last write before the cut."""

    def __init__(self, cut: Cut) -> None:
        self.cut, self.held_out = cut, [0, 0]

    def add(self, batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        assert streams.target.shape == streams.pruned.shape
        self.held_out[held_out] += len(batch.labels)

    def build(self, _shrinkage: float) -> Candidate:
        assert self.held_out == [24, 8 if REPAIRS["unchanged"].uses_held_out else 0]
        return Candidate(fold(self.cut.model, self.cut.writes_before().modules[0], torch.tensor(1.0)))


def llama() -> LayeredModel:
    return LayeredModel(build("llama"), "model.layers", "causal_lm")


def test_its_name_is_known_only_with_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not 'unchanged'"):
        Method(repair="unchanged")
    monkeypatch.setitem(REPAIRS, "unchanged", CutRepair(Unchanged))
    assert Method(repair="unchanged").repair == "unchanged"


def test_auto_tries_it_alone_and_on_top_of_each_repair_that_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    before = combinations("auto")
    monkeypatch.setitem(REPAIRS, "unchanged", CutRepair(Unchanged))
    assert set(combinations("auto")) - set(before) == {("unchanged",), ("compensate", "unchanged")}
    monkeypatch.setitem(REPAIRS, "unchanged", CutRepair(Unchanged, scales=True))
    assert set(combinations("auto")) - set(before) == {
        ("unchanged",),
        ("unchanged", "least_squares"),
        ("unchanged", "refit"),
    }


@pytest.mark.parametrize("uses_held_out", [False, True])
def test_a_repair_that_changes_nothing_is_judged_and_not_kept(
    uses_held_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REPAIRS, "unchanged", CutRepair(Unchanged, uses_held_out=uses_held_out))
    repaired = repair(llama(), batches(8), (3,), "unchanged")
    (attempt,) = repaired.attempts
    assert attempt.error_after == pytest.approx(attempt.error_before)
    assert (attempt.accepted, repaired.changes) == (False, {})


def test_changes_of_one_tensor_by_two_repairs_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[float, Tensor] = {}

    class Doubled(Unchanged):
        def add(self, batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
            pass

        def build(self, shrinkage: float) -> Candidate:
            write = self.cut.writes_before().modules[0]
            changes = fold(self.cut.model, write, torch.tensor(2.0))
            built[shrinkage] = changes[f"{write.module}.weight"]
            return Candidate(changes, shrinkage=3.0)

    monkeypatch.setitem(REPAIRS, "first", CutRepair(Doubled, scales=True))
    monkeypatch.setitem(REPAIRS, "second", CutRepair(Doubled))
    model = llama()
    repair(model, batches(8), (3,), "auto")
    weight = model.model.get_submodule("model.layers.2.mlp.down_proj").weight
    assert torch.equal(built[1.0], 2 * weight)
    assert torch.equal(built[3.0], 4 * weight)


def test_a_reason_not_to_fit_is_reported_for_all_that_need_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_cut: Cut) -> Unchanged:
        raise CannotFold("not on this day")

    monkeypatch.setitem(REPAIRS, "refused", CutRepair(refuse, scales=True))
    attempts = repair(llama(), batches(8), (3,), "auto").attempts
    reasons = {each.repair: each.reason for each in attempts if each.repair.startswith("refused +")}
    assert reasons == {"refused + least_squares": "not on this day", "refused + refit": "not on this day"}


def test_a_repair_of_the_whole_model_is_used_alone_where_it_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = Attempt(Run(3, 4), "whole", False, "only a test")
    same = Quality(1.0, 1.0, 1.0, 0.0)
    for reason, tried in ((None, {"whole"}), ("no", {"compensate", "refit"})):
        row = ModelRepair(
            lambda _model, reason=reason: reason, lambda *_: ({}, attempt, HeldOutQuality(same, same, same))
        )
        monkeypatch.setitem(REPAIRS, "whole", row)
        names = {each.repair for each in repair(llama(), batches(8), (3,), "auto").attempts}
        assert tried <= names
        assert ("whole" in names) == (reason is None)
    assert [each.reason for each in repair(llama(), batches(8), (3,), "whole").attempts] == ["no"]
