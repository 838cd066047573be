"""Make the uploads that a job names local, every file checked against what its tenant declared."""

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from jobs.artifacts import ArtifactStore
from jobs.repository import DeclaredFile, StoredUpload
from jobs.spec import JobSpec
from jobs.uploads import key_of
from worker.retrying import Patience
from worker.supervision.messages import LocalSpec

COPIES = "uploads"


class UploadDamaged(Exception):
    """What lies in the store is not what was uploaded; `uri` names the upload."""

    def __init__(self, uri: str, message: str) -> None:
        self.uri = uri
        super().__init__(message)


class Fetch(threading.Thread):
    """Copies uploads below `workspace`, so that heartbeats go on meanwhile; join it, then take `result`.

    A store that fails is tried for `patience_seconds` with every file. The thread is a daemon: a store that hangs must
    not keep the worker from ending.
    """

    def __init__(
        self, store: ArtifactStore, uploads: Mapping[str, StoredUpload], workspace: Path, patience_seconds: float
    ) -> None:
        super().__init__(daemon=True, name="fetch")
        self.done_bytes = 0
        self.total_bytes = sum(file.size_bytes for upload in uploads.values() for file in upload.files)
        self.stopping = threading.Event()
        self._store, self._uploads, self._workspace = store, uploads, workspace
        self._patience = Patience(patience_seconds, self.stopping)
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            for uri, upload in self._uploads.items():
                if self.stopping.is_set():
                    return
                # Made here alone: what is stopped must not make anew what was removed behind it.
                self._folder(upload).mkdir(parents=True)
                for file in upload.files:
                    self._copy(uri, upload, file)
        except Exception as error:
            self._error = error

    def result(self) -> dict[str, str]:
        """URI of an upload → path of its copy from the workspace, where the job's process works: so its reports name
        no folder of this machine. Raises what the copying raised, such as `UploadDamaged`.
        """
        if self._error:
            raise self._error
        return {uri: str(self._place(upload)) for uri, upload in self._uploads.items()}

    def _place(self, upload: StoredUpload) -> Path:
        """What the method opens: the file of a dataset or of a GGUF model, the folder of any other model."""
        folder = self._folder(upload).relative_to(self._workspace)
        (file, *others) = upload.files
        single = not others and (upload.kind == "dataset" or file.name.lower().endswith(".gguf"))
        return folder / file.name if single else folder

    def _folder(self, upload: StoredUpload) -> Path:
        # The model is called by the last part.
        return self._workspace / COPIES / upload.id / upload.name

    def _copy(self, uri: str, upload: StoredUpload, file: DeclaredFile) -> None:
        key = key_of(upload.id, file.name)
        # Asked for first: a signed address may have written anything here, also after the upload was complete.
        as_large = self._patience(lambda: self._store.size_bytes(key)) == file.size_bytes
        before = self.done_bytes
        # A second copy tells what is damaged in the store from what was damaged on its way here.
        for _ in range(2 if as_large else 0):
            sha256 = self._patience(lambda: self._written(key, self._folder(upload) / file.name, before))
            if sha256 == file.sha256 or self.stopping.is_set():
                return
        raise UploadDamaged(uri, f"{file.name} of {uri} is not in the store as it was uploaded")

    def _written(self, key: str, target: Path, before: int) -> str:
        """The sha256 of what was written; the bytes done count from `before`."""
        digest = hashlib.sha256()
        self.done_bytes = before
        with target.open("wb") as copy:
            for chunk in self._store.stream(key):
                if self.stopping.is_set():
                    break
                copy.write(chunk)
                digest.update(chunk)
                self.done_bytes += len(chunk)
        return digest.hexdigest()


def made_local(spec: JobSpec, paths: Mapping[str, str]) -> LocalSpec:
    """The specification with the paths of their copies in place of the URIs of uploads."""
    local = spec.model_dump()
    for part, name in (("model", "uri"), ("calibration", "source"), ("evaluation", "source")):
        local[part][name] = paths.get(local[part][name], local[part][name])
    return LocalSpec(**local)


def as_named(message: str, places: Mapping[str, str], workspace: Path) -> str:
    """A message about copies, told in the URIs that the user knows."""
    for uri, place in places.items():
        message = message.replace(str(workspace / place), uri).replace(place, uri)
    return message
