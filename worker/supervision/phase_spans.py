"""Traces of a job's process: a span for the whole of it, and below that one for each phase that it reports."""

from types import TracebackType
from typing import Self

from jobs.observability.tracing import Span, begin_span

# Until the first phase is reported.
STARTING = "starting"


class PhaseSpans:
    """A context manager; the supervisor makes the spans, because the process itself has no network."""

    def __init__(self, name: str, parent: Span) -> None:
        self._process = begin_span(name, parent.traceparent)
        self._name = STARTING
        self._phase = begin_span(STARTING, self._process.traceparent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._phase.end()
        self._process.record(failed=kind is not None)
        self._process.end()

    def enter(self, phase: str | None) -> None:
        """The process is in this phase now; None while it has reported none."""
        if phase is not None and phase != self._name:
            self._phase.end()
            self._name = phase
            self._phase = begin_span(phase, self._process.traceparent)
