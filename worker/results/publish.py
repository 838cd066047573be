"""Upload the files of a job, and check every file against the manifest that the job wrote."""

import json
import threading
from contextlib import suppress
from pathlib import Path

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.repository import PublishedArtifact, StoredAnalysis
from worker.background_transfer import BackgroundTransfer
from worker.retrying import retrying_store

MANIFEST = "manifest.json"


class Publication(BackgroundTransfer[list[PublishedArtifact]]):
    """Uploads the files of `output` below `prefix`. The result is the uploaded artifacts; raises the store's errors."""

    def __init__(self, store: ArtifactStore, output: Path, prefix: str, retry_seconds: float) -> None:
        self._files = json.loads((output / MANIFEST).read_text())["files"]
        super().__init__("publication", sum(file["size_bytes"] for file in self._files), retry_seconds)
        self._store, self._output, self._prefix = store, output, prefix
        # Cleaning up must go on after `stopping` is set.
        self._retrying_cleanup = retrying_store(retry_seconds, threading.Event())

    def transfer(self) -> list[PublishedArtifact]:
        try:
            return self._upload_all()
        finally:
            if self.stopping.is_set():
                # These files will never be published, and the scheduler may have swept the prefix before they came.
                with suppress(StorageUnavailable):
                    self._retrying_cleanup(lambda: self._store.delete_prefix(f"{self._prefix}/"))

    def _upload_all(self) -> list[PublishedArtifact]:
        artifacts = []
        for file in self._files:
            if self.stopping.is_set():
                break
            artifacts.append(self._upload(file["name"], file["media_type"], file["sha256"]))
            self.done_bytes += file["size_bytes"]
        return [*artifacts, self._upload(MANIFEST, "application/json", None)]

    def _upload(self, name: str, media_type: str, expected_sha256: str | None) -> PublishedArtifact:
        key = f"{self._prefix}/{name}"
        size_bytes, sha256 = self._retrying(lambda: self._store.put(key, self._output / name, media_type))
        if expected_sha256 not in {None, sha256}:
            raise StorageUnavailable(f"{name} changed between writing and upload: its sha256 is not the manifest's")
        return PublishedArtifact(name=name, media_type=media_type, size_bytes=size_bytes, sha256=sha256, key=key)


def read_analysis(output: Path) -> StoredAnalysis | None:
    """The part of the analysis that the database stores; None where the job has no analysis."""
    if not (output / "analysis.json").is_file():
        return None
    analysis = json.loads((output / "analysis.json").read_text())
    return StoredAnalysis(matrix=(output / "similarity.f32").read_bytes(), **analysis)
