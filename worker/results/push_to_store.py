"""Push results to a bucket or a folder. The manifest is removed first and written last: it says that all are there."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.artifacts import ArtifactStore, StorageForbidden, StorageUnavailable, open_place
from jobs.locations.destinations import Destination
from jobs.repository import PublishedArtifact
from worker.results.collect import MANIFEST
from worker.results.destination import Step


class StoreFolder:
    """The folder at a URI in a store. A second push overwrites the files of the first."""

    def __init__(self, uri: str, destination: Destination) -> None:
        """Raises `StorageForbidden` for a folder that does not exist or links out of the destination."""
        if urlsplit(uri).scheme == "file":
            # Links can only be resolved on this disk, and may be newer than the job.
            folder, root = _path_of(uri), _path_of(destination.prefix)
            if not root.is_dir():
                raise StorageForbidden(f"there is no folder {root} on the worker")
            if not folder.resolve().is_relative_to(root.resolve()):
                raise StorageForbidden(f"{uri} leads out of {destination.prefix}")
        self._store: ArtifactStore = open_place(uri, destination.options)

    def name_of(self, artifact: str) -> str:
        """Files have the names of the artifacts."""
        return artifact

    def push(self, output: Path, files: Sequence[PublishedArtifact], step: Step) -> None:
        """Write the files, each as one `step`."""
        step(0, lambda: self._store.delete(MANIFEST))
        for file in sorted(files, key=lambda file: file.name == MANIFEST):
            step(file.size_bytes, partial(self._put, output, file))

    def _put(self, output: Path, file: PublishedArtifact) -> None:
        size_bytes, sha256 = self._store.put(file.name, output / file.name, file.media_type)
        if (size_bytes, sha256) != (file.size_bytes, file.sha256):
            raise StorageUnavailable(f"{file.name} changed between its publication and its push")


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))
