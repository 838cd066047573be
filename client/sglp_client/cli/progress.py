"""The phases of a job on the screen: one bar per phase on a terminal, one line per phase elsewhere."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sglp_client.errors import JobFailed
from sglp_client.resources import Event, Job, QueuePlace
from sglp_client.sdk import SGLP


class PhaseBars:
    """A context manager that shows phases; one that counts in several units has a bar for each of them.

    A line begins with the time since this object was made.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]:8}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._began = time.monotonic()
        # Unit → bar, of each phase; a phase without progress yet has a bar without a unit.
        self._units: dict[str, dict[str, TaskID]] = {}
        self._current: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def start(self, phase: str) -> None:
        """Begin a phase, which completes the one before."""
        self.complete()
        if not self._console.is_terminal:
            self._console.print(f"{timedelta(seconds=int(time.monotonic() - self._began))} {phase}")
        self._current = self._bars.add_task(phase, total=None, unit="")
        self._units[phase] = {"": self._current}

    def update(self, phase: str, done: int, total: int, unit: str) -> None:
        """Show that `done` of `total` units of the phase are done; begins it where `start` did not."""
        if phase not in self._units:
            self.start(phase)
        bars = self._units[phase]
        if unit not in bars:
            bars[unit] = bars.pop("") if "" in bars else self._bars.add_task(phase, total=None, unit="")
        if bars[unit] != self._current:
            self.complete()
            self._current = bars[unit]
        shown = "" if unit == "steps" else unit
        self._bars.update(bars[unit], total=total, completed=done, unit=shown, refresh=True)

    def complete(self) -> None:
        """Fill the current bar: whatever its last progress was, its phase is over."""
        if self._current is not None:
            total = next(task.total for task in self._bars.tasks if task.id == self._current) or 1
            self._bars.update(self._current, total=total, completed=total)
            self._bars.stop_task(self._current)
            self._current = None


def follow(service: SGLP, job_id: str, console: Console, on_poll: Callable[[], None] = lambda: None) -> Job:
    """Show the job until it has ended, and return it; `on_poll` is called before every request and may raise."""
    with PhaseBars(console) as bars:
        return service.wait(job_id, _JobScreen(service, console, bars).show, on_poll=on_poll)


def require_success(job: Job) -> None:
    """Raises `JobFailed` with the job's error code and message where it did not succeed."""
    if job["error"]:
        raise JobFailed(f"{job['error']['code']}: {job['error']['message']}")
    if job["status"] != "succeeded":
        raise JobFailed(f"{job['id']} is {job['status']}")


def place_line(place: QueuePlace) -> str:
    """Where a job stands in the queue, and when it is expected to start if that can be said."""
    seconds = place["expected_start_seconds"]
    when = "" if seconds is None else f", expected to start in {timedelta(seconds=seconds)}"
    return f"number {place['position']} in the queue{when}"


def judgement_line(judgement: Mapping[str, float | None]) -> str:
    """What held-out samples say of a model that is healed, without the figures that are missing."""
    return "judged: " + ", ".join(f"{name} {value:.4g}" for name, value in judgement.items() if value is not None)


class _JobScreen:
    def __init__(self, service: SGLP, console: Console, bars: PhaseBars) -> None:
        self._service = service
        self._console = console
        self._bars = bars
        self._last_seq = 0
        self._phase: str | None = None
        self._shown_position: int | None = None

    def show(self, job: Job) -> None:
        for event in self._service.events(job["id"], after=self._last_seq):
            self._last_seq = event["seq"]
            self._show_event(event)
        # Not from a service that is older than this client.
        self._show_place(job.get("queue"))
        progress = job["progress"]
        # The events were read after the job, and may be in its next phase already.
        if self._phase and self._phase == job["phase"] and progress:
            self._bars.update(self._phase, progress["done"], progress["total"], progress["unit"])

    def _show_place(self, place: QueuePlace | None) -> None:
        """When the job begins to wait, and whenever half of those before it have started."""
        if place is None:
            self._shown_position = None
        elif self._shown_position is None or place["position"] <= self._shown_position / 2:
            self._console.print(place_line(place), markup=False, highlight=False)
            self._shown_position = place["position"]

    def _show_event(self, event: Event) -> None:
        kind, data = event["type"], event["data"]
        if kind == "phase":
            self._phase = data["phase"]
            self._bars.start(data["phase"])
            return
        if kind == "judged":
            self._console.print(judgement_line(data), markup=False, highlight=False)
            return
        self._phase = None
        self._bars.complete()
        if kind in {"running", "failed", "cancelled"}:
            # The caller of `follow` reports how the job ended.
            return
        if kind == "queued":
            why = f" again: {data['reason']}" if "reason" in data else ""
            line = f"queued{why}; waits for a worker"
        else:
            details = ", ".join(f"{name} {value}" for name, value in data.items())
            line = f"{kind}: {details}" if details else kind
        self._console.print(line, markup=False, highlight=False)
