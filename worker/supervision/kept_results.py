"""The results of a job's finished steps in the artifact store, so that the job goes on on any worker.

Which attempt writes where, and what removes it: docs/decisions/kept-results.md.
"""

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from jobs.artifacts import ArtifactStore, InsufficientStorage, StorageUnavailable
from worker.background_transfer import BackgroundTransfer
from worker.supervision.lease import Lease, Stop
from worker.untrusted_files import UntrustedFile, take_file
from worker.workspace import JobFolders

RECEIVED = "received"
SNAPSHOT = "kept-snapshot"
# An upload costs the training time on the processor, the disk and the network. All uploads together take at most a
# tenth of it.
PAUSES_PER_UPLOAD = 9
# Weights, two moments and the best weights of the largest model that is downloaded, in 32 bits, fit.
MOST_BYTES = 4 << 40
# Below the folder of the job's results: fence, number, sha256, name of the file in the cache.
KEY = re.compile(r"(\d+)/(\d+)/([0-9a-f]{64})/([0-9a-f]{64}\.npz)")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, order=True)
class StoredResult:
    """A result in the store: the `number`th that the attempt of this fence has stored.

    Of a `file_name`, the greatest is the newest.
    """

    fence: int
    number: int
    sha256: str
    file_name: str

    def key_of(self, job_id: str) -> str:
        return f"{_prefix(job_id)}{self.fence}/{self.number}/{self.sha256}/{self.file_name}"


class KeptFetch(BackgroundTransfer[list[StoredResult]]):
    """Downloads the newest result of each file of a job that is whole to the new folder `directory / RECEIVED`.

    The result is those. Raises `StorageUnavailable` and `OSError`.
    """

    def __init__(self, store: ArtifactStore, job_id: str, directory: Path, retry_seconds: float) -> None:
        super().__init__("fetch of kept results", 0, retry_seconds)
        self._store, self._job_id, self._folder = store, job_id, directory / RECEIVED

    def transfer(self) -> list[StoredResult]:
        sizes = self._retrying(lambda: _sizes(self._store, self._job_id))
        fetched: dict[str, StoredResult] = {}
        for result in sorted(sizes, reverse=True):
            if self.stopping.is_set():
                break
            if result.file_name not in fetched and self._fetch(result, sizes[result]):
                fetched[result.file_name] = result
        return list(fetched.values())

    def _fetch(self, result: StoredResult, size_bytes: int) -> bool:
        self.total_bytes = size_bytes
        self._folder.mkdir(exist_ok=True)
        # The second time is for damage on the way here; damage in the store shows in both.
        for _ in range(2):
            if self._retrying(lambda: self._download(result)):
                return True
        log.warning("a stored result is damaged", fence=result.fence, number=result.number)
        return False

    def _download(self, result: StoredResult) -> bool:
        digest = hashlib.sha256()
        self.done_bytes = 0
        target = self._folder / result.file_name
        is_whole = False
        try:
            with target.open("wb") as file:
                for chunk in self._store.stream(result.key_of(self._job_id)):
                    if self.stopping.is_set():
                        break
                    file.write(chunk)
                    digest.update(chunk)
                    self.done_bytes += len(chunk)
            is_whole = digest.hexdigest() == result.sha256
        finally:
            # The job goes on without it, and may need the space.
            if not is_whole:
                target.unlink(missing_ok=True)
        return is_whole


class KeptUploads:
    """Stores the kept results of one attempt, one upload after the other, in the background.

    An upload that fails is logged, and the next one is tried: the job does not depend on it.
    """

    def __init__(self, store: ArtifactStore, lease: Lease, folders: JobFolders) -> None:
        self._store, self._lease, self._folders = store, lease, folders
        # In the order in which they were first offered.
        self._waiting: dict[str, None] = {}
        self._upload: KeptUpload | None = None
        self._begun = 0
        self._started_at = self._due_at = 0.0

    @property
    def is_uploading(self) -> bool:
        """Whether an upload has begun whose end `advance` has not noted yet."""
        return self._upload is not None

    def offer(self, file: str) -> None:
        """A result was kept in this file of the job's cache, which a later one may replace."""
        self._waiting[file] = None

    def advance(self) -> None:
        """Begin an upload if a result waits, none is running, and the last one is long enough ago."""
        now = time.monotonic()
        if self._upload is not None and not self._upload.is_alive():
            self._end(self._upload, now)
            self._upload = None
        if not self.is_uploading and self._waiting and now >= self._due_at:
            file = next(iter(self._waiting))
            del self._waiting[file]
            self._begun += 1
            self._upload = KeptUpload(self._store, self._lease, file, self._folders, self._begun)
            self._started_at = now
            self._upload.start()

    def stop(self) -> None:
        """Begin no more uploads; what a running one still stores is deleted again."""
        self._waiting.clear()
        if self._upload is not None:
            self._upload.stopping.set()

    def _end(self, upload: "KeptUpload", now: float) -> None:
        try:
            upload.result()
        except (StorageUnavailable, InsufficientStorage, UntrustedFile, OSError) as error:
            log.warning("a result was not stored", file=upload.file, error=str(error))
            return
        seconds = now - self._started_at
        self._due_at = now + PAUSES_PER_UPLOAD * seconds
        log.info("a result was stored", file=upload.file, size_bytes=upload.total_bytes, seconds=round(seconds, 3))


class KeptUpload(BackgroundTransfer[None]):
    """Stores one result under a new key, then deletes those of the same file, which it replaces.

    Raises `StorageUnavailable`, `InsufficientStorage`, `UntrustedFile` and `OSError`.
    """

    def __init__(self, store: ArtifactStore, lease: Lease, file: str, folders: JobFolders, number: int) -> None:
        # Tried once: the next one is worth more than another try for this one.
        super().__init__("upload of a kept result", 0, 0)
        self.file = file
        self._store, self._lease, self._number = store, lease, number
        self._cache, self._snapshot = folders.cache, folders.directory / SNAPSHOT

    def transfer(self) -> None:
        try:
            # What replaces the file later does not change the snapshot.
            take_file(self._cache, self.file, self._snapshot, MOST_BYTES)
            self._store_snapshot()
        finally:
            self._snapshot.unlink(missing_ok=True)

    def _store_snapshot(self) -> None:
        self.total_bytes = self._snapshot.stat().st_size
        with self._snapshot.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        claim = self._lease.claim
        result = StoredResult(claim.fence, self._number, sha256, PurePosixPath(self.file).name)
        key = result.key_of(claim.job_id)
        self._store.put(key, self._snapshot, "application/octet-stream")
        if self.stopping.is_set() or self._lease.stop is Stop.LOST:
            # The job may have ended, and what it left been swept, before this came.
            self._store.delete(key)
            return
        # Only older ones: a worker that was frozen may store after the next one has.
        for older in _sizes(self._store, claim.job_id):
            if older.file_name == result.file_name and older < result:
                self._store.delete(older.key_of(claim.job_id))


def _prefix(job_id: str) -> str:
    return f"jobs/{job_id}/kept/"


def _sizes(store: ArtifactStore, job_id: str) -> dict[StoredResult, int]:
    """The size in bytes of each stored result of a job. Raises `StorageUnavailable`."""
    sizes = {}
    for key, size_bytes in store.sizes(_prefix(job_id)).items():
        named = KEY.fullmatch(key.removeprefix(_prefix(job_id)))
        if named:
            fence, number, sha256, file_name = named.groups()
            sizes[StoredResult(int(fence), int(number), sha256, file_name)] = size_bytes
    return sizes
