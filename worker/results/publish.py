"""Upload the files of a job, and check every file against the manifest that the job wrote."""

import threading
from contextlib import suppress

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.repository import PublishedArtifact
from worker.background_transfer import BackgroundTransfer
from worker.results.collect import MANIFEST, Collected
from worker.retrying import retrying_store
from worker.untrusted_files import UntrustedFile


class Publication(BackgroundTransfer[list[PublishedArtifact]]):
    """Uploads the files of a job below `prefix`. The result is the uploaded artifacts.

    Raises the store's errors, and `UntrustedFile` for a file that is not the one of the manifest.
    """

    def __init__(self, store: ArtifactStore, collected: Collected, prefix: str, retry_seconds: float) -> None:
        super().__init__("publication", sum(file.size_bytes for file in collected.files), retry_seconds)
        self._store, self._collected, self._prefix = store, collected, prefix
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
        for file in self._collected.files:
            if self.stopping.is_set():
                break
            artifacts.append(self._upload(file.name, file.media_type, file.sha256))
            self.done_bytes += file.size_bytes
        return [*artifacts, self._upload(MANIFEST, "application/json", None)]

    def _upload(self, name: str, media_type: str, expected_sha256: str | None) -> PublishedArtifact:
        key = f"{self._prefix}/{name}"
        size_bytes, sha256 = self._retrying(lambda: self._store.put(key, self._collected.folder / name, media_type))
        if expected_sha256 not in {None, sha256}:
            raise UntrustedFile(f"{name} changed between writing and upload: its sha256 is not the manifest's")
        return PublishedArtifact(name=name, media_type=media_type, size_bytes=size_bytes, sha256=sha256, key=key)
