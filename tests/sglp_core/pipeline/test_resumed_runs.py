"""A run that was cut off goes on on another machine: what was measured, tried and repaired is not done again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sglp_core import (
    Calibration,
    Evaluation,
    Healing,
    Method,
    Options,
    Progress,
    QualityTarget,
    ResultTransfer,
    RunContext,
    SilentReporter,
    Target,
    compress,
)
from sglp_core.analysis import measure
from sglp_core.planning.harm import HarmMeter
from sglp_core.repair.walk import RepairWalk
from tests.worker.tiny_model import write_text, write_tiny_model

# Of a report, what says how a run was made, and not what came out; the table repeats figures, some of them seconds.
OWN = ("seconds", "peak", "reused", "resumed", "placement", "created", "latency", "samples_per_second", "table")


class CutOff(Exception):
    """The process was killed."""


class Until(SilentReporter):
    """Cuts the run off when a phase begins."""

    def __init__(self, phase: str | None) -> None:
        self._phase = phase

    def progress(self, progress: Progress) -> None:
        if progress.phase == self._phase:
            raise CutOff


def run(tmp_path: Path, name: str, target: Target | QualityTarget, until: str | None = None) -> Path:
    """Compress with a cache of its own, and with what `received` has; what is kept is copied to `kept`."""
    received, kept = tmp_path / "received", tmp_path / "kept"
    for folder in (received, kept):
        folder.mkdir(exist_ok=True)
    options = Options(
        method=Method(repair="auto"),
        calibration=Calibration(str(tmp_path / "text.txt"), samples=16, sequence_length=16, batch_size=4),
        evaluation=Evaluation(samples=4),
        healing=Healing(steps=4),
    )
    transfer = ResultTransfer(received, lambda file: shutil.copy(file, kept))
    context = RunContext(cache=tmp_path / name / "cache", reporter=Until(until), transfer=transfer)
    compress(str(tmp_path / "model"), target, tmp_path / name / "output", options, context)
    return tmp_path / name / "output"


def outcome(output: Path) -> Any:
    """The report without what differs from run to run, and the weights."""

    def comparable(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: comparable(each) for key, each in value.items() if not any(own in key for own in OWN)}
        return [comparable(each) for each in value] if isinstance(value, list) else value

    return comparable(json.loads((output / "report.json").read_text())), load_file(output / "model/model.safetensors")


@pytest.mark.parametrize(
    "target", [Target("layers", 0.34), pytest.param(QualityTarget("perplexity", 0.5), marks=pytest.mark.slow)]
)
def test_a_run_goes_on_on_another_machine(
    tmp_path: Path, target: Target | QualityTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "model")
    write_text(tmp_path / "text.txt")
    expected, weights = outcome(run(tmp_path, "undisturbed", target))
    shutil.rmtree(tmp_path / "kept")
    for number, phase in enumerate(("planning", "repairing", "healing", "verifying")):
        with pytest.raises(CutOff):
            run(tmp_path, f"machine {number}", target, until=phase)
        shutil.rmtree(tmp_path / "received")
        (tmp_path / "kept").rename(tmp_path / "received")
        shutil.copytree(tmp_path / "received", tmp_path / "kept")

    def again(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr(measure, "measure", again)
    monkeypatch.setattr("sglp_core.pipeline.run.measure", again)
    monkeypatch.setattr(HarmMeter, "_measure", again)
    monkeypatch.setattr(RepairWalk, "run", again)
    found, found_weights = outcome(run(tmp_path, "last", target))
    assert found == expected
    assert found_weights.keys() == weights.keys()
    assert all(torch.equal(found_weights[name], weights[name]) for name in weights)
