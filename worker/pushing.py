"""Push what a job has made to the place its tenant wants it at, so that a reader knows when it is complete."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jobs.artifacts import ArtifactStore, StorageForbidden, StorageUnavailable, open_place
from jobs.destinations import Destination
from jobs.repository import PublishedArtifact
from worker.patience import Patience
from worker.publishing import MANIFEST


class PushForbidden(Exception):
    """The destination does not take it, and trying again will not help."""


class Push(threading.Thread):
    """Writes the files of `output` below `uri`, so that heartbeats go on meanwhile; join it, then take `result`.

    The manifest with every file's sha256 is removed first and written last: where there is one, all it names is there.
    So a second attempt may overwrite what the first has left. Patience and thread are those of a publication.
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
        self._files = sorted(files, key=lambda file: file.name == MANIFEST)
        self._patience = Patience(patience_seconds, self.stopping)
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            store = self._open()
            self._try(lambda: store.delete(MANIFEST))
            for file in self._files:
                self._try(lambda file=file: self._put(store, file))
                self.done_bytes += file.size_bytes
        except Exception as error:
            self._error = error

    def result(self) -> dict[str, Any]:
        """What was written and where. Raises `PushForbidden`, `StorageUnavailable`, `InsufficientStorage`."""
        if isinstance(self._error, StorageForbidden):
            raise PushForbidden(f"{self._uri} does not let the service write, read or delete") from self._error
        if self._error:
            raise self._error
        files = [{"name": each.name, "size_bytes": each.size_bytes, "sha256": each.sha256} for each in self._files]
        return {"uri": self._uri, "manifest": MANIFEST, "files": files}

    def _open(self) -> ArtifactStore:
        if urlsplit(self._uri).scheme == "file":
            # Links are only known on this disk, and may have been made since the job was submitted.
            folder, root = _path_of(self._uri), _path_of(self._destination.prefix)
            if not root.is_dir():
                raise PushForbidden(f"there is no folder {root} on the worker")
            if not folder.resolve().is_relative_to(root.resolve()):
                raise PushForbidden(f"{self._uri} leads out of {self._destination.prefix}")
        return open_place(self._uri, self._destination.options)

    def _put(self, store: ArtifactStore, file: PublishedArtifact) -> None:
        size_bytes, sha256 = store.put(file.name, self._output / file.name, file.media_type)
        if (size_bytes, sha256) != (file.size_bytes, file.sha256):
            raise StorageUnavailable(f"{file.name} changed between its publication and its push")

    def _try(self, step: Callable[[], None]) -> None:
        """Nothing more is written once this is to stop."""
        if not self.stopping.is_set():
            self._patience(step)


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
