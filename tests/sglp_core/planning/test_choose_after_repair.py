"""Which plan is best once it is repaired, against repairing and judging every candidate here."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

from sglp_core import Calibration, Evaluation, Method, Target, compress
from sglp_core.analysis.measure import measure
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.evaluation.quality import evaluate, evaluate_batches
from sglp_core.execution.logits import Trial
from sglp_core.execution.variant import Variant
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Options
from sglp_core.planning.choose import Choice, choose_plan
from sglp_core.planning.choose_after_repair import finalists
from sglp_core.planning.harm import harm_of
from sglp_core.planning.plan import Plan
from sglp_core.planning.proposals import Proposal
from sglp_core.progress import silent_phase
from sglp_core.repair.named_repairs import combinations
from sglp_core.repair.plan_in_walk import Request
from sglp_core.repair.walk import RepairWalk
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch
from tests.worker.tiny_model import write_text, write_tiny_model

CALIBRATION = {"samples": 12, "sequence_length": 16, "batch_size": 4}
TARGET = Target("layers", 2 / 6)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    model = write_tiny_model(tmp_path / "model")
    return load_model(
        str(model), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=tmp_path / "cache")
    )


def chosen(loaded: LoadedModel, data: CalibrationData, text: Path, kind: str) -> Choice:
    method = Method(repair=kind)
    analysis = measure(loaded, data, Options(method=method, calibration=Calibration(str(text), **CALIBRATION)))
    batches = data.calibration(loaded)
    return choose_plan(WriteFinder(loaded, batches[0]), analysis, TARGET, Options(method=method), batches)


def repaired_harm(loaded: LoadedModel, windows: Sequence[Batch], fitted: int, removed: tuple[int, ...]) -> float:
    """The harm on the windows behind those that the repair is fitted on, of this one plan by itself."""
    request = Request(removed, frozenset(range(fitted, len(windows))))
    walk = RepairWalk(WriteFinder(loaded, windows[0]), windows, [request], combinations("least_squares"), tunes=False)
    ((changes, _, _),) = walk.run(silent_phase(), judges_unrepaired=False)
    quality = evaluate(loaded, windows[fitted:], {"it": Variant(removed, changes)})
    return harm_of(quality["dense"], quality["it"])


def test_the_plan_that_harms_least_after_its_repair_is_taken(loaded: LoadedModel, text: Path, tmp_path: Path) -> None:
    data = prepare(loaded, Calibration(str(text), **CALIBRATION), None, RunContext(cache=tmp_path))
    found = chosen(loaded, data, text, "least_squares")
    batches: Sequence[Batch] = data.calibration(loaded)
    alone = [batch.rows(row, row + 1) for batch in batches for row in range(len(batch.labels))]
    harms: dict[tuple[int, ...], float] = {}
    for proposal in found.proposals:
        removed = proposal.plan.removed_layers
        if proposal.repaired_harm is not None:
            # Of twelve windows the last three are judged.
            harms[removed] = repaired_harm(loaded, alone, 9, removed)
            assert proposal.repaired_harm == pytest.approx(harms[removed], rel=1e-4)
    assert len(harms) > 2
    assert found.plan.removed_layers == min(harms, key=lambda each: harms[each])
    # What comes first without repair is asked about too.
    unrepaired = chosen(loaded, data, text, "none")
    assert unrepaired.plan.removed_layers in harms
    assert all(proposal.repaired_harm is None for proposal in unrepaired.proposals)


@pytest.mark.parametrize(("kind", "keeps"), [("auto", True), ("compensate", True), ("least_squares", False)])
def test_plans_are_tried_with_the_length_that_the_repair_gives_back(
    loaded: LoadedModel, text: Path, tmp_path: Path, kind: str, keeps: bool
) -> None:
    data = prepare(loaded, Calibration(str(text), **CALIBRATION), None, RunContext(cache=tmp_path))
    # Proposals are tried on the first two windows.
    first = [row for batch in data.calibration(loaded) for row in batch.split(1)][:2]
    proposals = [each for each in chosen(loaded, data, text, kind).proposals if each.trials == len(first)]
    assert proposals
    for each in proposals:
        variant = {"it": Variant(each.plan.removed_layers)}
        qualities = evaluate_batches(loaded, first, variant, Trial(keeps_length=keeps))
        assert each.harm == pytest.approx(fmean(harm_of(one["dense"], one["it"]) for one in qualities), rel=1e-4)


def test_of_much_data_a_part_tells_plans_apart_and_all_of_it_repairs_the_winner(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    text = write_text(tmp_path / "long.txt", lines=500)
    calibration = Calibration(str(text), samples=300, sequence_length=16, batch_size=50)
    data = prepare(loaded, calibration, None, RunContext(cache=tmp_path))
    found = chosen(loaded, data, text, "least_squares")
    report = compress(
        str(loaded.source.directory),
        TARGET,
        tmp_path / "out",
        Options(
            method=Method(repair="least_squares"),
            calibration=calibration,
            evaluation=Evaluation(samples=4, controls=False),
        ),
        RunContext(cache=tmp_path / "cache"),
    )
    assert report.plan.removed_layers == found.plan.removed_layers
    assert (report.repair.fitted_windows, report.repair.judged_windows) == (225, 75)
    # 2,048 predictions are 128 of the windows.
    alone = [batch.rows(row, row + 1) for batch in data.calibration(loaded) for row in range(len(batch.labels))][:128]
    for proposal in found.proposals:
        if proposal.repaired_harm is not None:
            harm = repaired_harm(loaded, alone, 96, proposal.plan.removed_layers)
            assert proposal.repaired_harm == pytest.approx(harm, rel=1e-4)


def test_among_the_finalists_are_the_best_and_the_best_others_of_one_cut() -> None:
    def proposal(harm: float, *removed: int) -> Proposal:
        return Proposal(("it",), Plan(TARGET, removed, 1 / 3, 1, 1 / 3), harm, 1)

    proposals = [
        proposal(1.0, 1, 4),
        proposal(1.0, 1, 4),
        proposal(1.1, 2, 4),
        proposal(1.2, 1, 3),
        proposal(1.6, 5, 6),
        proposal(1.7, 8, 9),
        proposal(1.9, 10, 11),
        proposal(1.8, 9, 10),
        proposal(1.3, 3, 4),
        proposal(1.5, 7, 8),
        proposal(1.4, 4, 5),
    ]
    found = [each.plan.removed_layers for each in finalists(proposals)]
    assert found == [(1, 4), (2, 4), (1, 3), (5, 6), (8, 9), (10, 11)]


def test_the_report_says_how_repaired_plans_did(loaded: LoadedModel, text: Path, tmp_path: Path) -> None:
    report = compress(
        str(loaded.source.directory),
        TARGET,
        tmp_path / "out",
        options=Options(
            method=Method(repair="auto"),
            calibration=Calibration(str(text), **CALIBRATION),
            evaluation=Evaluation(samples=4, controls=False),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    first, *others = report.proposals
    assert first.removed_layers == report.plan.removed_layers
    asked = [each.repaired_harm for each in others if each.repaired_harm is not None]
    assert asked
    assert first.repaired_harm <= min(asked)
    assert "harm after repair" in (tmp_path / "out/report.md").read_text()
