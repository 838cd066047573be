"""Controls get the plan's repair: every row of the report against its layers repaired and judged here alone."""

from pathlib import Path

import pytest

from sglp_core import Calibration, Evaluation, Healing, Method, QualityTarget, Target, compress
from sglp_core.data.calibration_data import prepare
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.variant import Variant
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Options
from sglp_core.repair import REPAIRS, CutRepair
from sglp_core.repair.refit import REFIT
from sglp_core.repair.repair import repair_plans
from sglp_core.reporting.comparison import ControlRow, QualityFigures
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from tests.sglp_core.recorded_progress import Recorder
from tests.worker.tiny_model import LAYERS, write_text, write_tiny_model

METRICS = ("perplexity", "accuracy", "agreement", "kl")
TARGETS = {"layers": Target("layers", 2 / LAYERS), "quality": QualityTarget("perplexity", 0.5)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls")
    write_tiny_model(folder / "model")
    write_text(folder / "text.txt")
    return folder


def options(folder: Path, repair: str, healing: Healing = Healing()) -> Options:
    return Options(
        method=Method(importance="block_influence", repair=repair),
        calibration=Calibration(str(folder / "text.txt"), samples=32, sequence_length=16, batch_size=8),
        evaluation=Evaluation(samples=8),
        healing=healing,
    )


def compressed(folder: Path, out: Path, target: Target | QualityTarget, settings: Options) -> CompressReport:
    return compress(str(folder / "model"), target, out, settings, RunContext(cache=folder / "cache"))


def figures(row: ControlRow | QualityFigures) -> list[float | None]:
    return [getattr(row, metric) for metric in METRICS]


@pytest.mark.parametrize("kind", TARGETS)
def test_a_row_is_what_its_layers_give_as_cut_and_repaired_alone(kind: str, folder: Path, tmp_path: Path) -> None:
    settings = options(folder, "auto")
    report = compressed(folder, tmp_path / "out", TARGETS[kind], settings)
    context = RunContext(cache=folder / "cache")
    loaded = load_model(str(folder / "model"), settings, context)
    data = prepare(loaded, settings.calibration, settings.evaluation, context)
    assert [row.name for row in report.controls] == ["sglp", "last_layers", "random", "block_influence"]
    for row in report.controls:
        (alone,) = repair_plans(loaded, data.calibration(loaded), [row.removed_layers], "auto")
        variants = {"cut": Variant(row.removed_layers), "repaired": Variant(row.removed_layers, alone.changes)}
        quality = evaluate(loaded, data.evaluation(loaded), variants)
        assert figures(row) == pytest.approx([getattr(quality["cut"], metric) for metric in METRICS], rel=1e-4)
        assert (row.repaired is not None) == bool(alone.changes)
        if row.repaired is not None:
            expected = [getattr(quality["repaired"], metric) for metric in METRICS]
            assert figures(row.repaired) == pytest.approx(expected, rel=1e-4)
            assert row.repaired.perplexity != row.perplexity
    plan, *controls = report.controls
    # The plan's own row is what the steps say.
    stages = {stage.stage: [getattr(stage, metric) for metric in METRICS] for stage in report.stages}
    assert stages["pruned"] == figures(plan)
    assert plan.repaired is not None
    assert stages["repaired"] == figures(plan.repaired)
    assert any(row.repaired for row in controls)
    assert [row.beats_plan for row in controls] == [
        (row.repaired or row).perplexity < plan.repaired.perplexity for row in controls
    ]
    assert "| perplexity, repaired |" in (tmp_path / "out/report.md").read_text()


def test_the_plan_and_its_controls_are_repaired_in_one_walk(folder: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    settings = options(folder, "auto")
    # Of no earlier run.
    context = RunContext(cache=tmp_path / "cache", reporter=recorder)
    compress(str(folder / "model"), TARGETS["layers"], tmp_path / "out", settings, context)
    steps = [report.done for report in recorder.reports if report.phase == "repairing"]
    # A step for each layer and, at the exit, for each batch that judges: one walk, from its start to its end.
    assert steps == list(range(LAYERS + 2))


def test_kept_repairs_are_those_of_the_same_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []
    for number, own in enumerate((False, True)):
        if own:
            monkeypatch.setitem(REPAIRS, "mine", CutRepair(REFIT.fit))
        report = compressed(folder, tmp_path / f"out{number}", TARGETS["layers"], options(folder, "auto"))
        kinds.append({attempt.kind for attempt in report.repair.attempts})
    assert "mine" not in kinds[0]
    assert kinds[1] >= {*kinds[0], "mine", "compensate + mine"}


def test_without_a_repair_there_are_only_figures_as_cut(folder: Path, tmp_path: Path) -> None:
    report = compressed(folder, tmp_path / "out", TARGETS["layers"], options(folder, "none"))
    assert len(report.controls) == 4
    assert [row.repaired for row in report.controls] == [None] * 4
    perplexities = [row.perplexity for row in report.controls]
    assert [row.beats_plan for row in report.controls] == [each < perplexities[0] for each in perplexities]
    page = (tmp_path / "out/report.md").read_text()
    assert "\n| plan | removed layers | perplexity | accuracy | agreement | KL |\n" in page
    assert "perplexity, repaired" not in page


def test_healing_is_no_part_of_the_comparison(folder: Path, tmp_path: Path) -> None:
    healing = Healing(steps=24, learning_rate=1e-3, alpha=0.0)
    report = compressed(folder, tmp_path / "out", TARGETS["layers"], options(folder, "auto", healing))
    assert [stage.stage for stage in report.stages] == ["dense", "pruned", "repaired", "healed"]
    assert report.controls[0].repaired is not None
    assert figures(report.controls[0].repaired) == [getattr(report.stages[2], metric) for metric in METRICS]
    after = {row.metric: row.after for row in report.table}
    assert [after[metric] for metric in METRICS] == [getattr(report.stages[3], metric) for metric in METRICS]
