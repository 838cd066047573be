"""Sends the progress and facts of the method to the supervisor."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel

from jobs.events import Judged
from jobs.progress import SourceFile
from worker.supervision.messages import (
    JudgedMessage,
    KeptMessage,
    PhaseProgress,
    PlanMessage,
    ProgressMessage,
    ResolvedMessage,
)

if TYPE_CHECKING:
    from sglp_core import Progress


class PipeReporter:
    """Writes progress and facts of `sglp_core` as lines into a pipe; `sources` become part of the resolved facts."""

    def __init__(self, lines: TextIO, sources: Sequence[SourceFile] = ()) -> None:
        self._lines = lines
        self._sources = sources

    def fetched(self, done_bytes: int, total_bytes: int) -> None:
        self._send_progress(PhaseProgress(phase="fetching", done=done_bytes, total=total_bytes, unit="bytes"))

    def progress(self, progress: "Progress") -> None:
        self._send_progress(
            PhaseProgress(phase=progress.phase, done=progress.done, total=progress.total, unit=progress.unit)
        )

    def resolved(self, facts: Mapping[str, object]) -> None:
        # The method's dictionaries may hold tuples, which are no JSON values until they are written.
        sources = {"sources": [file.model_dump() for file in self._sources]} if self._sources else {}
        self._send(ResolvedMessage.model_construct(resolved={**facts, **sources}))

    def planned(self, plan: Mapping[str, object]) -> None:
        self._send(PlanMessage.model_construct(plan=plan))

    def judged(self, judgement: Mapping[str, float | None]) -> None:
        # JSON has no NaN and no infinities.
        figures = {name: value if value is None or isfinite(value) else None for name, value in judgement.items()}
        self._send(JudgedMessage(judged=Judged.model_validate(figures)))

    def result_kept(self, file: Path) -> None:
        """The `kept` of a `ResultTransfer`."""
        self._send(KeptMessage(kept_result=f"{file.parent.name}/{file.name}"))

    def _send_progress(self, progress: PhaseProgress) -> None:
        self._send(ProgressMessage(progress=progress))

    def _send(self, message: BaseModel) -> None:
        self._lines.write(message.model_dump_json() + "\n")
