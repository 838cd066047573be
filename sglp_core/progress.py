"""Progress of a run: what a caller implements to follow it, and what each step of the method reports through."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of the running phase."""

    phase: str
    done: int
    total: int
    unit: str


class ProgressReporter(Protocol):
    """Implemented by a caller who wants to follow a run; called from the thread that runs it.

    `resolved` gets the facts of the opened model as JSON: `model_sha256`, `revision`, `format`, `class`, `versions`;
    `planned` gets the plan as the report has it.
    """

    def progress(self, progress: Progress) -> None: ...
    def resolved(self, facts: Mapping[str, object]) -> None: ...
    def planned(self, plan: Mapping[str, object]) -> None: ...


class SilentReporter:
    """Reports nothing."""

    def progress(self, progress: Progress) -> None: ...
    def resolved(self, facts: Mapping[str, object]) -> None: ...
    def planned(self, plan: Mapping[str, object]) -> None: ...


class Phase:
    """Counts the units of one phase and reports every change."""

    def __init__(self, reporter: ProgressReporter, name: str) -> None:
        self._reporter, self._name = reporter, name
        self._done, self._total, self._unit = 0, 0, ""

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """Begin to count `total` units, `done` of them already; a phase may count several units one after the other."""
        self._total, self._unit = total, unit
        self.update(done)

    def advance(self, count: int = 1) -> None:
        """That many more units are done."""
        self.update(self._done + count)

    def update(self, done: int) -> None:
        """So many units are done in all; the total grows where it was too low."""
        self._done, self._total = done, max(self._total, done)
        self._reporter.progress(Progress(self._name, self._done, self._total, self._unit))

    @contextmanager
    def single_step(self) -> Iterator[None]:
        """The whole phase is one step: the body of the `with` statement."""
        self.start(1, "steps")
        yield
        self.advance()


def silent_phase() -> Phase:
    """A phase that nobody follows."""
    return Phase(SilentReporter(), "")
