"""Upload what a job has made, every file checked against the manifest the job wrote."""

import json
import threading
from contextlib import suppress
from pathlib import Path

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.repository import PublishedArtifact, StoredAnalysis
from worker.retrying import Patience

MANIFEST = "manifest.json"


class Publication(threading.Thread):
    """Uploads the files of `output` below `prefix`, so that heartbeats go on meanwhile; join it, then take `result`.

    A store that fails is tried for `patience_seconds` with every file. The thread is a daemon: a store that hangs must
    not keep the worker from ending.
    """

    def __init__(self, store: ArtifactStore, output: Path, prefix: str, patience_seconds: float) -> None:
        super().__init__(daemon=True, name="publication")
        self.done_bytes = 0
        self.stopping = threading.Event()
        self._store, self._output, self._prefix = store, output, prefix
        self._patience = Patience(patience_seconds, self.stopping)
        self._cleaning = Patience(patience_seconds, threading.Event())
        self._files = json.loads((output / MANIFEST).read_text())["files"]
        self.total_bytes = sum(file["size_bytes"] for file in self._files)
        self._published: list[PublishedArtifact] = []
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            for file in self._files:
                if self.stopping.is_set():
                    break
                self._published.append(self._upload(file["name"], file["media_type"], file["sha256"]))
                self.done_bytes += file["size_bytes"]
            self._published.append(self._upload(MANIFEST, "application/json", None))
        except Exception as error:
            self._error = error
        if self.stopping.is_set():
            # Nobody publishes these any more, and the scheduler may have swept already.
            with suppress(StorageUnavailable):
                self._cleaning(lambda: self._store.delete_prefix(f"{self._prefix}/"))

    def result(self) -> list[PublishedArtifact]:
        """The uploaded artifacts; raises what the upload raised."""
        if self._error:
            raise self._error
        return self._published

    def _upload(self, name: str, media_type: str, expected_sha256: str | None) -> PublishedArtifact:
        key = f"{self._prefix}/{name}"
        size_bytes, sha256 = self._patience(lambda: self._store.put(key, self._output / name, media_type))
        if expected_sha256 not in {None, sha256}:
            raise StorageUnavailable(f"{name} changed between writing and upload: its sha256 is not the manifest's")
        return PublishedArtifact(name=name, media_type=media_type, size_bytes=size_bytes, sha256=sha256, key=key)


def read_analysis(output: Path) -> StoredAnalysis | None:
    """What the database keeps of the analysis; None where the job made none."""
    if not (output / "analysis.json").is_file():
        return None
    found = json.loads((output / "analysis.json").read_text())
    return StoredAnalysis(matrix=(output / "similarity.f32").read_bytes(), **found)
