"""Push results to a repository on a model hub, in one commit, so that nobody sees an incomplete model.

The model is at the root, where `from_pretrained` looks for it, and all other files are in the folder `sglp/`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import HfHubHTTPError

# The hub's client chooses which of two httpx packages it uses, and offers it under this name.
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]
from huggingface_hub.utils.tqdm import disable_progress_bars

from jobs.artifacts import StorageForbidden, StorageUnavailable
from jobs.repository import PublishedArtifact
from worker.results.destination import Result, Step

MODEL, EVIDENCE = "model/", "sglp/"
# Old files with these suffixes could be loaded instead of the pushed weights.
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf", ".h5", ".msgpack")
PASSING = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.TOO_MANY_REQUESTS,
)

CommitOperation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


class HubRepository:
    """The repository `hf://organisation/name`; created as a private one if it does not exist."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        # A worker's log has one line for each event.
        disable_progress_bars()
        self._name = uri.removeprefix("hf://")
        self._hub = HfApi(endpoint=options.get("endpoint"), token=options["token"], library_name="sglp")

    def name_of(self, artifact: str) -> str:
        """The model's files are at the root, all others in a folder."""
        return artifact.removeprefix(MODEL) if artifact.startswith(MODEL) else EVIDENCE + artifact

    def push(self, output: Path, files: Sequence[PublishedArtifact], step: Step) -> str:
        """Make one commit and check that the hub has the same files; returns the commit."""
        names = {self.name_of(file.name): output / file.name for file in files}
        step(0, lambda: self._translated_errors(lambda: self._hub.create_repo(self._name, private=True, exist_ok=True)))
        size_bytes = sum(file.size_bytes for file in files)
        commit = step(size_bytes, lambda: self._translated_errors(lambda: self._commit(names)))
        entries = step(0, lambda: self._translated_errors(lambda: self._listed(commit)))
        for name, path in names.items():
            if not _is_same(entries.get(name), path):
                raise StorageUnavailable(f"{name} is not in the commit {commit} as it was pushed")
        return commit

    def _commit(self, names: Mapping[str, Path]) -> str:
        """One commit that adds these files. If weights are among them, it deletes all other weights at the root."""
        existing = self._hub.list_repo_files(self._name) if any(map(_is_weights, names)) else []
        others = [name for name in existing if _is_weights(name) and name not in names]
        operations: list[CommitOperation] = [
            *(CommitOperationDelete(path_in_repo=name) for name in others),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in names.items()),
        ]
        commit = self._hub.create_commit(self._name, operations, commit_message="Add a model made smaller by SGLP")
        return str(commit.oid)

    def _listed(self, commit: str) -> dict[str, RepoFile]:
        entries = self._hub.list_repo_tree(self._name, recursive=True, revision=commit)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _translated_errors(self, ask: Callable[[], Result]) -> Result:
        """Errors of the hub without its messages, which may repeat the token."""
        try:
            return ask()
        # The library raises RuntimeError where the upload of one of several files fails.
        except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
            status = _status_of(error)
            if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING:
                message = f"the hub answers {status}: check the token, and that it may write to {self._name}"
                raise StorageForbidden(message) from error
            reason = type(error).__name__ if status is None else str(status)
            raise StorageUnavailable(f"the hub failed on {self._name}: {reason}") from error


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith(WEIGHTS)


def _is_same(entry: RepoFile | None, path: Path) -> bool:
    """Whether the hub has this file, by its sha256, or by the hash of its git blob if the hub stores it as one."""
    size_bytes = path.stat().st_size
    if entry is None or entry.size != size_bytes:
        return False
    if entry.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % size_bytes + path.read_bytes()).hexdigest() == entry.blob_id


def _status_of(error: BaseException | None) -> int | None:
    """The HTTP status that caused an error, if any."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return int(error.response.status_code)
        error = error.__cause__
    return None
