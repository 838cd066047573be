"""Push the files of a job to the destination its tenant chose, so that a reader can see when they are complete."""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from jobs.artifacts import StorageForbidden
from jobs.locations.destinations import Destination
from jobs.repository import PublishedArtifact
from jobs.results import Pushed, PushedFile
from worker.background_transfer import BackgroundTransfer
from worker.results.collect import MANIFEST
from worker.results.destination import PushTarget, Result
from worker.results.push_to_hub import HubRepository
from worker.results.push_to_store import StoreFolder


class PushForbidden(Exception):
    """The destination refuses the files, and retrying will not help."""


class Stopping(Exception):
    """The supervisor ended the push."""


class Push(BackgroundTransfer[Pushed]):
    """Writes the files of `output` to the destination at `uri`.

    The manifest with every file's sha256 is removed first and written last, or all files are one commit: if there is a
    manifest, every file in it is there. Raises `PushForbidden`, `StorageUnavailable`, `InsufficientStorage`.
    """

    def __init__(
        self,
        uri: str,
        destination: Destination,
        output: Path,
        files: Sequence[PublishedArtifact],
        retry_seconds: float,
    ) -> None:
        super().__init__("push", sum(file.size_bytes for file in files), retry_seconds)
        self._uri, self._destination, self._output = uri.rstrip("/"), destination, output
        self._files = files

    def transfer(self) -> Pushed:
        try:
            target = _open(self._uri, self._destination)
            commit = target.push(self._output, self._files, self._step)
        except StorageForbidden as error:
            raise PushForbidden(f"{self._uri} does not take it: {error}") from error
        files = [
            PushedFile(name=target.name_of(file.name), size_bytes=file.size_bytes, sha256=file.sha256)
            for file in self._files
        ]
        return Pushed(uri=self._uri, manifest=target.name_of(MANIFEST), files=files, commit=commit)

    def _step(self, size_bytes: int, work: Callable[[], Result]) -> Result:
        """Raises `Stopping` instead of writing anything after the push was ended."""
        if self.stopping.is_set():
            raise Stopping
        done = self._retrying(work)
        self.done_bytes += size_bytes
        return done


def _open(uri: str, destination: Destination) -> PushTarget:
    """The target by the URI's scheme. Raises `StorageForbidden` where it is clear already that writing is refused."""
    if urlsplit(uri).scheme == "hf":
        return HubRepository(uri, destination.options)
    return StoreFolder(uri, destination)
