"""Progress of a run: the protocol that callers implement, and the counter that each phase of the method updates."""

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
    """Implemented by callers that follow a run; the methods are called from the thread that runs it.

    `resolved` receives facts of the loaded model as JSON: `model_sha256`, `revision`, `format`, `class`, `versions`.
    `planned` receives the plan as in the report, and `judged` what held-out samples say of a model that is healed: its
    `step`, the figures of the report's curve, and `samples_per_second` of the training since the judgement before.
    """

    def progress(self, progress: Progress) -> None: ...
    def resolved(self, facts: Mapping[str, object]) -> None: ...
    def planned(self, plan: Mapping[str, object]) -> None: ...
    def judged(self, judgement: Mapping[str, float | None]) -> None: ...


class SilentReporter:
    """Reports nothing."""

    def progress(self, progress: Progress) -> None: ...
    def resolved(self, facts: Mapping[str, object]) -> None: ...
    def planned(self, plan: Mapping[str, object]) -> None: ...
    def judged(self, judgement: Mapping[str, float | None]) -> None: ...


class Phase:
    """Counts the units of one phase and reports every change."""

    def __init__(self, reporter: ProgressReporter, name: str) -> None:
        self._reporter, self._name = reporter, name
        self._done, self._total, self._unit = 0, 0, ""

    def start(self, total: int, unit: str, done: int = 0) -> None:
        """Begin counting `total` units of which `done` are done; call it again where a phase goes on to other units."""
        self._total, self._unit = total, unit
        self.update(done)

    def advance(self, count: int = 1) -> None:
        """Add to the units done."""
        self.update(self._done + count)

    def update(self, done: int) -> None:
        """Set the units done; a total that was too low grows with them."""
        self._done, self._total = done, max(self._total, done)
        self._reporter.progress(Progress(self._name, self._done, self._total, self._unit))

    def judged(self, judgement: Mapping[str, float | None]) -> None:
        """Report how good the model is that the phase trains."""
        self._reporter.judged(judgement)

    @contextmanager
    def single_step(self) -> Iterator[None]:
        """The whole phase is one step: the body of the `with` statement."""
        self.start(1, "steps")
        yield
        self.advance()


def silent_phase() -> Phase:
    """A phase that reports to nobody."""
    return Phase(SilentReporter(), "")
