"""A bucket or a folder as the place of results: the manifest goes first and comes back last, so a reader knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jobs.artifacts import ArtifactStore, StorageForbidden, StorageUnavailable, open_place
from jobs.locations.destinations import Destination
from jobs.repository import PublishedArtifact
from worker.results.destination import Step
from worker.results.publish import MANIFEST


class PlaceInStore:
    """What lies below a URI in a store. A second push overwrites what the first has left."""

    def __init__(self, uri: str, destination: Destination) -> None:
        """Raises `StorageForbidden` for a folder that is not there or leads out of the destination."""
        if urlsplit(uri).scheme == "file":
            # Links are only known on this disk, and may have been made since the job was submitted.
            folder, root = _path_of(uri), _path_of(destination.prefix)
            if not root.is_dir():
                raise StorageForbidden(f"there is no folder {root} on the worker")
            if not folder.resolve().is_relative_to(root.resolve()):
                raise StorageForbidden(f"{uri} leads out of {destination.prefix}")
        self._store: ArtifactStore = open_place(uri, destination.options)

    def name_of(self, artifact: str) -> str:
        """Files are called as the artifacts are."""
        return artifact

    def push(self, output: Path, files: Sequence[PublishedArtifact], step: Step) -> dict[str, Any]:
        """Write the files, each as a `step`; nothing more is to be told of it."""
        step(0, lambda: self._store.delete(MANIFEST))
        for file in sorted(files, key=lambda file: file.name == MANIFEST):
            step(file.size_bytes, lambda file=file: self._put(output, file))
        return {}

    def _put(self, output: Path, file: PublishedArtifact) -> None:
        size_bytes, sha256 = self._store.put(file.name, output / file.name, file.media_type)
        if (size_bytes, sha256) != (file.size_bytes, file.sha256):
            raise StorageUnavailable(f"{file.name} changed between its publication and its push")


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
