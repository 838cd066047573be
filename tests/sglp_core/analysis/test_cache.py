"""The second job on the same model and data measures nothing and finds the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sglp_core import Calibration, Method, analyze
from sglp_core.options import Options
from sglp_core.progress import Progress, ProgressReporter, SilentReporter
from sglp_core.reporting.report import AnalyzeReport
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import write_text, write_tiny_model

SELF = Calibration("self", samples=8, sequence_length=16, batch_size=4)


class Phases(SilentReporter):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def progress(self, progress: Progress) -> None:
        if progress.phase not in self.seen:
            self.seen.append(progress.phase)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every call of a linear layer with weights, and every backward pass."""
    seen: list[str] = []
    forward, backward = nn.Linear.forward, torch.Tensor.backward

    def noted(self: nn.Linear, *args: Any, **kwargs: Any) -> Any:
        # Parameters and FLOPs are counted on the meta device, from the configuration alone.
        if self.weight.device.type != "meta":
            seen.append("forward")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(nn.Linear, "forward", noted)
    monkeypatch.setattr(torch.Tensor, "backward", lambda *a, **k: (seen.append("backward"), backward(*a, **k))[1])
    return seen


def run(
    model: Path,
    directory: Path,
    name: str,
    calibration: Calibration = SELF,
    reporter: ProgressReporter = SilentReporter(),
    **settings: Any,
) -> AnalyzeReport:
    return analyze(
        str(model),
        directory / name,
        Options(calibration=calibration, **settings),
        RunContext(cache=directory / "cache", reporter=reporter),
    )


def without_peaks(report: AnalyzeReport) -> AnalyzeReport:
    """The report without the peaks of memory, which are those of this process so far."""
    return replace(report, placement=replace(report.placement, peak_memory_bytes=0))


def test_the_second_job_runs_the_model_not_once_and_reports_the_same(
    model: Path, tmp_path: Path, passes: list[str]
) -> None:
    first = run(model, tmp_path, "first")
    assert set(passes) == {"forward", "backward"}
    passes.clear()
    phases = Phases()
    second = run(model, tmp_path, "second", reporter=phases)
    assert passes == []
    assert "measuring" not in phases.seen

    assert (first.analysis.reused, second.analysis.reused) == (False, True)
    again = replace(second, analysis=replace(second.analysis, reused=False))
    assert without_peaks(first) == without_peaks(again)
    for name in ("analysis.json", "similarity.f32", "similarity.npz"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert "measured by an earlier job" in (tmp_path / "second" / "report.md").read_text()


def test_segments_are_cut_anew_from_the_kept_matrix(model: Path, tmp_path: Path) -> None:
    first = run(model, tmp_path, "first", method=Method(segments=2))
    second = run(model, tmp_path, "second", method=Method(segments=3, importance="taylor", protected=(1,)))
    alone = run(model, tmp_path / "alone", "third", method=Method(segments=3))
    assert second.analysis.reused
    assert first.analysis.key == second.analysis.key
    assert second.analysis.segments == alone.analysis.segments
    assert len(second.analysis.segments) == 3


@pytest.mark.parametrize(
    ("calibration", "method"),
    [
        (replace(SELF, seed=1), Method()),
        (replace(SELF, samples=4), Method()),
        (replace(SELF, batch_size=8), Method()),
        (replace(SELF, sequence_length=17), Method()),
        (SELF, Method(estimator="biased")),
        (SELF, Method(kernel="rbf")),
    ],
)
def test_what_changes_the_measurement_changes_the_key(
    model: Path, tmp_path: Path, calibration: Calibration, method: Method
) -> None:
    first = run(model, tmp_path, "first")
    second = run(model, tmp_path, "second", calibration, method=method)
    assert not second.analysis.reused
    assert first.analysis.key != second.analysis.key


def test_another_text_or_model_is_another_key(model: Path, tmp_path: Path) -> None:
    text = write_text(tmp_path / "text.txt")
    given = replace(SELF, source=str(text))
    keys = {run(model, tmp_path, "first", given).analysis.key}
    text.write_text(text.read_text().replace("cat", "dog"))
    keys.add(run(model, tmp_path, "second", given).analysis.key)
    other = write_tiny_model(tmp_path / "model")
    weights = next(other.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    keys.add(run(other, tmp_path, "third", given).analysis.key)
    assert len(keys) == 3


def test_a_damaged_entry_is_measured_again_and_mended(model: Path, tmp_path: Path) -> None:
    first = run(model, tmp_path, "first")
    for file in (tmp_path / "cache").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-30])
    second = run(model, tmp_path, "second")
    assert (second.analysis.reused, run(model, tmp_path, "third").analysis.reused) == (False, True)
    assert without_peaks(first) == without_peaks(second)
