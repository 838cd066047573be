"""The phases of a job on a terminal and elsewhere."""

import io
import re
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from sglp_client.cli import progress
from sglp_client.cli.progress import PhaseBars


def shown(console: Console) -> list[str]:
    """The lines as they were printed, one after the other."""
    assert isinstance(console.file, io.StringIO)
    without_controls = re.sub(r"\x1b\[\??\d+[A-Za-z]", "", console.file.getvalue())
    return [line.rpartition("\r")[2].strip() for line in without_controls.split("\n") if line]


def run(console: Console) -> None:
    with PhaseBars(console) as bars:
        bars.start("fetching")
        bars.update("fetching", 3, 10, "bytes")
        bars.update("measuring", 1, 4, "batches")
        bars.update("measuring", 2, 8, "layers")
        bars.update("verifying", 0, 1, "steps")
        bars.complete()


def test_a_terminal_has_a_bar_for_each_unit_of_a_phase_and_what_is_over_is_full() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    run(console)
    last = [line for line in shown(console) if "━" in line][-4:]
    for line, (phase, count, unit) in zip(
        last,
        [
            ("fetching", "10/10", "bytes"),
            ("measuring", "4/4", "batches"),
            ("measuring", "8/8", "layers"),
            ("verifying", "1/1", ""),
        ],
        strict=True,
    ):
        assert line.startswith(phase)
        assert line.split("━ ")[1].split()[:-1] == [count, *unit.split()]


def test_elsewhere_each_phase_is_one_line_with_the_time_it_began_at(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.4, 161.2, 3761.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    console = Console(file=io.StringIO(), width=100)
    run(console)
    assert shown(console) == ["0:00:00 fetching", "0:01:01 measuring", "1:01:01 verifying"]


def test_a_waiting_job_says_where_it_stands_when_half_of_those_before_it_have_started() -> None:
    console = Console(file=io.StringIO(), width=100)
    with PhaseBars(console) as bars:
        screen = progress._JobScreen(SimpleNamespace(events=lambda *_args, **_kw: []), console, bars)  # type: ignore[arg-type]
        for position, seconds in ((100, None), (99, 600), (50, 300), (40, 250), (2, 5), (1, 3)):
            screen.show(job(queue={"position": position, "expected_start_seconds": seconds}))
        screen.show(job(queue=None))
        # A service that is older than the client says nothing.
        screen.show(job())
    assert shown(console) == [
        "number 100 in the queue",
        "number 50 in the queue, expected to start in 0:05:00",
        "number 2 in the queue, expected to start in 0:00:05",
        "number 1 in the queue, expected to start in 0:00:03",
    ]


def job(**fields: Any) -> Any:
    return {"id": "job_1", "phase": None, "progress": None, **fields}
