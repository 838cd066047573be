"""The interface of a place that results are pushed to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from jobs.repository import PublishedArtifact

Result = TypeVar("Result")


class Step(Protocol):
    """Runs one step of a push, and again while the destination fails. `size_bytes` are pushed by the step."""

    def __call__(self, size_bytes: int, work: Callable[[], Result]) -> Result: ...


class PushTarget(Protocol):
    """Where results go. Its methods raise `StorageUnavailable`, `StorageForbidden` and `InsufficientStorage`."""

    def name_of(self, artifact: str) -> str:
        """The name of an artifact's file at the destination."""

    def push(self, output: Path, files: Sequence[PublishedArtifact], step: Step) -> str | None:
        """Write the files of a job's `output`; returns the commit where the destination makes one."""
