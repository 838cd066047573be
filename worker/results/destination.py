"""What a push asks of the place that it goes to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jobs.repository import PublishedArtifact

# Does what it is given, again while the place fails; so many bytes are pushed by it.
Step = Callable[[int, Callable[[], Any]], Any]


class Place(Protocol):
    """Where results go. Its methods raise `StorageUnavailable`, `StorageForbidden` and `InsufficientStorage`."""

    def name_of(self, artifact: str) -> str:
        """What a file is called there."""

    def push(self, output: Path, files: Sequence[PublishedArtifact], step: Step) -> dict[str, Any]:
        """Write the files of a job's `output`; returns what else is to be told of it."""
