"""A repository on a model hub as the place of results: all in one commit, so that nobody sees half of it.

The model lies at the root, where `from_pretrained` looks for it, and the evidence in a folder of its own.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import disable_progress_bars, httpx

from jobs.artifacts import StorageForbidden, StorageUnavailable
from jobs.repository import PublishedArtifact
from worker.results.destination import Step

MODEL, EVIDENCE = "model/", "sglp/"
# What a library might load instead of the weights that were pushed.
WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf", ".h5", ".msgpack")
PASSING = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.PRECONDITION_FAILED,
    HTTPStatus.TOO_MANY_REQUESTS,
)

Result = TypeVar("Result")


class PlaceOnHub:
    """The repository `hf://organisation/name`; made private where it is not there yet."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        # The log of a worker has one line an event.
        disable_progress_bars()
        self._name = uri.removeprefix("hf://")
        self._hub = HfApi(endpoint=options.get("endpoint"), token=options["token"], library_name="sglp")

    def name_of(self, artifact: str) -> str:
        """The model's files lie at the root, all others in a folder."""
        return artifact.removeprefix(MODEL) if artifact.startswith(MODEL) else EVIDENCE + artifact

    def push(self, output: Path, files: Sequence[PublishedArtifact], step: Step) -> dict[str, Any]:
        """Make one commit, and compare what the hub then has; returns the commit."""
        names = {self.name_of(file.name): output / file.name for file in files}
        step(0, lambda: self._told_plainly(lambda: self._hub.create_repo(self._name, private=True, exist_ok=True)))
        size_bytes = sum(file.size_bytes for file in files)
        commit = step(size_bytes, lambda: self._told_plainly(lambda: self._commit(names)))
        there = step(0, lambda: self._told_plainly(lambda: self._listed(commit)))
        for name, path in names.items():
            if not _is(there.get(name), path):
                raise StorageUnavailable(f"{name} is not in the commit {commit} as it was pushed")
        return {"commit": commit}

    def _commit(self, names: Mapping[str, Path]) -> str:
        """One commit with these files; where there are weights among them, it leaves no others at the root."""
        there = self._hub.list_repo_files(self._name) if any(map(_is_weights, names)) else []
        others = [name for name in there if _is_weights(name) and name not in names]
        operations = [
            *(CommitOperationDelete(path_in_repo=name) for name in others),
            *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in names.items()),
        ]
        made = self._hub.create_commit(self._name, operations, commit_message="Add a model made smaller by SGLP")
        return str(made.oid)

    def _listed(self, commit: str) -> dict[str, RepoFile]:
        entries = self._hub.list_repo_tree(self._name, recursive=True, revision=commit)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _told_plainly(self, ask: Callable[[], Result]) -> Result:
        """Errors of the hub without what it says, which may repeat what it was sent."""
        try:
            return ask()
        # The library wraps what went wrong with one of many files into a RuntimeError.
        except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
            status = _status_of(error)
            if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in PASSING:
                message = f"the hub answers {status}: check the token, and that it may write to {self._name}"
                raise StorageForbidden(message) from error
            said = type(error).__name__ if status is None else str(status)
            raise StorageUnavailable(f"the hub failed on {self._name}: {said}") from error


def _is_weights(name: str) -> bool:
    return "/" not in name and name.endswith(WEIGHTS)


def _is(entry: RepoFile | None, path: Path) -> bool:
    """Whether the hub has this very file: by the hash of its content, or by that of a git blob where it is small."""
    size_bytes = path.stat().st_size
    if entry is None or entry.size != size_bytes:
        return False
    if entry.lfs is not None:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
    return hashlib.sha1(b"blob %d\0" % size_bytes + path.read_bytes()).hexdigest() == entry.blob_id


def _status_of(error: BaseException | None) -> int | None:
    """The status of the answer that is behind an error."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return int(error.response.status_code)
        error = error.__cause__
    return None
