"""A running job on the screen: one bar a phase on a terminal, one line a phase elsewhere."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sglp_client.sdk import SGLP


class JobFailed(Exception):
    """The job ended, but not well."""


def follow(service: SGLP, job_id: str, console: Console, check: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Show the job until it has ended, and return it; `check` is called at every look and may raise."""
    bars = Progress(
        TextColumn("{task.description:12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]:8}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with bars:
        return service.wait(job_id, _Screen(service, console, bars).show, on_poll=check)


def require_success(job: dict[str, Any]) -> None:
    """Raises `JobFailed` with the job's error code and message where it did not succeed."""
    if job["error"]:
        raise JobFailed("{code}: {message}".format(**job["error"]))
    if job["status"] != "succeeded":
        raise JobFailed(f"{job['id']} is {job['status']}")


class _Screen:
    def __init__(self, service: SGLP, console: Console, bars: Progress) -> None:
        self._service = service
        self._console = console
        self._bars = bars
        self._seen = 0
        self._bar: TaskID | None = None

    def show(self, job: dict[str, Any]) -> None:
        for event in self._service.events(job["id"], after=self._seen):
            self._seen = event["seq"]
            self._tell(event["type"], event["data"])
        progress = job["progress"]
        if self._bar is not None and progress:
            self._bars.update(
                self._bar, total=progress["total"], completed=progress["done"], unit=progress["unit"], refresh=True
            )

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        self._finish_bar()
        if kind in {"running", "failed", "cancelled"}:
            # How it ended is told by whoever waits for it.
            return
        if kind == "queued":
            why = f" again: {data['reason']}" if "reason" in data else ""
            self._console.print(f"queued{why}; waits for a worker", markup=False, highlight=False)
        elif kind != "phase":
            said = ", ".join(f"{name} {value}" for name, value in data.items())
            self._console.print(f"{kind}: {said}" if said else kind, markup=False, highlight=False)
        elif self._console.is_terminal:
            self._bar = self._bars.add_task(data["phase"], total=None, unit="")
        else:
            self._console.print(data["phase"])

    def _finish_bar(self) -> None:
        """A phase that others follow is complete, whatever its last progress was."""
        if self._bar is not None:
            total = next(task.total for task in self._bars.tasks if task.id == self._bar) or 1
            self._bars.update(self._bar, total=total, completed=total)
            self._bars.stop_task(self._bar)
            self._bar = None
