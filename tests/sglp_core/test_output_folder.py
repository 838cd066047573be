"""The output folder of a run must be new or empty."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from sglp_core import RunContext, SilentReporter, SweepTarget, Target, compress, sweep
from tests.worker.tiny_model import write_tiny_model


def test_a_folder_that_is_not_empty_is_refused_before_the_work(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    opened: list[str] = []

    class Reporter(SilentReporter):
        def resolved(self, _facts: Mapping[str, object]) -> None:
            opened.append("model")

    for work in (compress, sweep):
        target = Target("layers", 0.3) if work is compress else SweepTarget("layers", (0.3,))
        with pytest.raises(FileExistsError, match="name a new directory"):
            work(str(tmp_path / "model"), target, tmp_path / "model", context=RunContext(reporter=Reporter()))
    assert opened == []
