"""Push what a job has made to the place its tenant wants it at, so that a reader knows when it is complete."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.artifacts import StorageForbidden
from jobs.locations.destinations import Destination
from jobs.repository import PublishedArtifact
from worker.results.destination import Place
from worker.results.publish import MANIFEST
from worker.results.push_to_hub import PlaceOnHub
from worker.results.push_to_store import PlaceInStore
from worker.retrying import Patience


class PushForbidden(Exception):
    """The destination does not take it, and trying again will not help."""


class Stopping(Exception):
    """Whoever waits for the push wants no more of it."""


class Push(threading.Thread):
    """Writes the files of `output` to a place, so that heartbeats go on meanwhile; join it, then take `result`.

    The manifest with every file's sha256 is removed first and written last, or all is one commit: where there is a
    manifest, all it names is there. Patience and thread are those of a publication.
    """

    def __init__(
        self,
        uri: str,
        destination: Destination,
        output: Path,
        files: Sequence[PublishedArtifact],
        patience_seconds: float,
    ) -> None:
        super().__init__(daemon=True, name="push")
        self.done_bytes = 0
        self.total_bytes = sum(file.size_bytes for file in files)
        self.stopping = threading.Event()
        self._uri, self._destination, self._output = uri.rstrip("/"), destination, output
        self._files = files
        self._patience = Patience(patience_seconds, self.stopping)
        self._told: dict[str, Any] = {}
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            place = _open(self._uri, self._destination)
            told = place.push(self._output, self._files, self._step)
            files = [
                {"name": place.name_of(each.name), "size_bytes": each.size_bytes, "sha256": each.sha256}
                for each in self._files
            ]
            self._told = {"uri": self._uri, "manifest": place.name_of(MANIFEST), "files": files, **told}
        except Exception as error:
            self._error = error

    def result(self) -> dict[str, Any]:
        """What was written and where. Raises `PushForbidden`, `StorageUnavailable`, `InsufficientStorage`."""
        if isinstance(self._error, StorageForbidden):
            raise PushForbidden(f"{self._uri} does not take it: {self._error}") from self._error
        if self._error:
            raise self._error
        return self._told

    def _step(self, size_bytes: int, work: Callable[[], Any]) -> Any:
        """Nothing more is written once this is to stop."""
        if self.stopping.is_set():
            raise Stopping
        done = self._patience(work)
        self.done_bytes += size_bytes
        return done


def _open(uri: str, destination: Destination) -> Place:
    """The place by its scheme; raises `StorageForbidden` where it can be seen already that nothing may go there."""
    if urlsplit(uri).scheme == "hf":
        return PlaceOnHub(uri, destination.options)
    return PlaceInStore(uri, destination)
