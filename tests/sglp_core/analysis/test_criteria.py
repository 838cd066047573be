"""A criterion of one's own: a row of the table, and everything else follows."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sglp_core import Calibration, Evaluation, Method, Target, analyze, compress
from sglp_core.analysis.criteria import CRITERIA, Criterion, LayerTrace
from sglp_core.options import Options
from sglp_core.reporting.report import AnalyzeReport
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import LAYERS, write_text, write_tiny_model

# Of a Llama of six layers: the second and the fourth are worth least.
WORTH = [6.0, 1.0, 5.0, 2.0, 4.0, 3.0]


def worth(trace: LayerTrace) -> np.ndarray:
    assert trace.cosine.shape[1] == LAYERS
    return np.array(WORTH)


def worth_of_runs(trace: LayerTrace) -> np.ndarray:
    scores = np.zeros((LAYERS + 1, LAYERS + 1))
    for end in range(LAYERS + 1):
        for start in range(end):
            scores[start, end] = sum(WORTH[start:end])
    return scores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_model(tmp_path / "model")
    write_text(tmp_path / "text.txt")
    return tmp_path


def options(folder: Path) -> Options:
    return Options(
        method=Method(repair="none"),
        calibration=Calibration(str(folder / "text.txt"), samples=8, sequence_length=16, batch_size=4),
        evaluation=Evaluation(samples=4, controls=False),
    )


def analyzed(folder: Path, name: str) -> AnalyzeReport:
    return analyze(str(folder / "model"), folder / name, options(folder), RunContext(cache=folder / "cache"))


def use(monkeypatch: pytest.MonkeyPatch, criterion: Criterion) -> None:
    monkeypatch.setitem(CRITERIA, "worth", criterion)


def test_its_name_is_known_only_with_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not 'worth'"):
        Method(importance="worth")
    use(monkeypatch, Criterion(worth))
    assert Method(importance="worth").importance == "worth"


def test_it_chooses_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Criterion(worth))
    report = compress(
        str(folder / "model"),
        Target("layers", 2 / LAYERS),
        folder / "out",
        replace(options(folder), method=Method(segments=1, importance="worth", repair="none")),
        RunContext(cache=folder / "cache"),
    )
    assert report.plan.removed_layers == (1, 3)


def test_it_proposes_beside_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Criterion(worth, worth_of_runs))
    report = compress(
        str(folder / "model"),
        Target("layers", 2 / LAYERS),
        folder / "out",
        options(folder),
        RunContext(cache=folder / "cache"),
    )
    proposed = {name: row.removed_layers for row in report.proposals for name in row.proposed_by}
    assert proposed["worth/stack"] == (1, 3)
    assert proposed["worth_of_runs/stack"] == (1, 3)
    single_cuts = {row.removed_layers for row in report.proposals if "worth/single_cut" in row.proposed_by}
    # All neighbours that may go; no measure of runs proposes more than three.
    assert single_cuts == {(1, 2), (2, 3), (3, 4)}


def test_an_analysis_of_the_cache_is_used_only_with_the_same_criteria(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [analyzed(folder, name).analysis.reused for name in ("first", "second")] == [False, True]
    use(monkeypatch, Criterion(worth))
    reports = [analyzed(folder, name) for name in ("third", "fourth")]
    assert [report.analysis.reused for report in reports] == [False, True]
    layers = json.loads((folder / "fourth" / "analysis.json").read_text())["layers"]
    assert [layer["importance"]["worth"] for layer in layers] == WORTH
    use(monkeypatch, Criterion(worth, worth_of_runs))
    assert not analyzed(folder, "fifth").analysis.reused
    monkeypatch.undo()
    assert analyzed(folder, "sixth").analysis.reused


@pytest.mark.parametrize(
    ("criterion", "shape"),
    [
        (Criterion(lambda _trace: np.ones(LAYERS - 1)), r"\(5,\), and not \(6,\)"),
        (Criterion(worth, worth), r"\(6,\), and not \(7, 7\)"),
    ],
)
def test_scores_of_another_shape_are_refused(
    criterion: Criterion, shape: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, criterion)
    with pytest.raises(ValueError, match=f"the criterion worth returns scores of shape {shape}"):
        analyzed(folder, "out")


def test_another_function_of_the_same_name_is_another_source(tmp_path: Path) -> None:
    def defined(name: str, text: str) -> Callable[[LayerTrace], np.ndarray]:
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        names: dict[str, Callable[[LayerTrace], np.ndarray]] = {}
        exec(compile(text, str(file), "exec"), names)
        return names["scores"]

    once = defined("once", "def scores(trace):\n    return trace.angle.mean(0)\n")
    same = defined("same", "def scores(trace):\n    return trace.angle.mean(0)\n")
    helped = defined("helped", "def helper():\n    return 2\n\ndef scores(trace):\n    return trace.angle.mean(0)\n")
    assert Criterion(once).source() == Criterion(same).source()
    assert Criterion(once).source() != Criterion(helped).source()
    typed: dict[str, Callable[[LayerTrace], np.ndarray]] = {}
    exec("def one(trace): return trace\ndef two(trace): return trace", typed)
    assert Criterion(typed["one"]).source() != Criterion(typed["two"]).source()
    # Nobody can say what a partial calls; it is another one in each process.
    assert Criterion(partial(once)).source() != Criterion(partial(helped)).source()
