"""Copy the uploads that a job names to its folder, and check every file against what its tenant declared."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from jobs.artifacts import ArtifactStore
from jobs.locations.uploads import key_of
from jobs.repository import DeclaredFile, StoredUpload
from jobs.spec import JobSpec
from worker.background_transfer import BackgroundTransfer
from worker.sources.local_spec import LocalSpec

COPIES = "uploads"


class UploadDamaged(Exception):
    """The object in the store is not the file that was uploaded; `uri` names the upload."""

    def __init__(self, uri: str, message: str) -> None:
        self.uri = uri
        super().__init__(message)


class UploadFetch(BackgroundTransfer[dict[str, str]]):
    """Copies uploads below `workspace`.

    The result maps the URI of each upload to the path of its copy relative to `workspace`, which is the working
    directory of the job's process: so its reports name no folder of this machine. Raises `UploadDamaged`, `OSError`
    and the errors of the store.
    """

    def __init__(
        self, store: ArtifactStore, uploads: Mapping[str, StoredUpload], workspace: Path, retry_seconds: float
    ) -> None:
        total_bytes = sum(file.size_bytes for upload in uploads.values() for file in upload.files)
        super().__init__("fetch", total_bytes, retry_seconds)
        self._store, self._uploads, self._workspace = store, uploads, workspace

    def transfer(self) -> dict[str, str]:
        for uri, upload in self._uploads.items():
            if self.stopping.is_set():
                break
            # Only here: once stopped, the thread must not create folders again that the supervisor has removed.
            self._folder(upload).mkdir(parents=True)
            for file in upload.files:
                self._copy(uri, upload, file)
        return {uri: str(self._path(upload)) for uri, upload in self._uploads.items()}

    def _path(self, upload: StoredUpload) -> Path:
        """The path that the method opens: the file of a dataset or a GGUF model, the folder of any other model."""
        folder = self._folder(upload).relative_to(self._workspace)
        (file, *others) = upload.files
        single = not others and (upload.kind == "dataset" or file.name.lower().endswith(".gguf"))
        return folder / file.name if single else folder

    def _folder(self, upload: StoredUpload) -> Path:
        # Reports name the model by the last part of its path.
        return self._workspace / COPIES / upload.id / upload.name

    def _copy(self, uri: str, upload: StoredUpload, file: DeclaredFile) -> None:
        key = key_of(upload.id, file.name)
        # Checked first: the holder of a signed URL can replace the object, also after the upload was completed.
        has_declared_size = self._retrying(lambda: self._store.size_bytes(key)) == file.size_bytes
        before = self.done_bytes
        # The second copy is for damage on the way here; damage in the store shows in both.
        for _ in range(2 if has_declared_size else 0):
            sha256 = self._retrying(lambda: self._written(key, self._folder(upload) / file.name, before))
            if sha256 == file.sha256 or self.stopping.is_set():
                return
        raise UploadDamaged(uri, f"{file.name} of {uri} is not in the store as it was uploaded")

    def _written(self, key: str, target: Path, before: int) -> str:
        """Write the object to `target` and return its sha256; `done_bytes` starts again at `before`."""
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
    """The specification with the path of its copy in place of the URI of a model that is an upload.

    Data keeps its URI, by which reports name it.
    """
    local = spec.model_dump()
    local["model"]["uri"] = paths.get(spec.model.uri, spec.model.uri)
    return LocalSpec(**local)


def as_named(message: str, paths: Mapping[str, str], workspace: Path) -> str:
    """The message with the URIs of uploads in place of the paths of their copies."""
    for uri, path in paths.items():
        message = message.replace(str(workspace / path), uri).replace(path, uri)
    return message
