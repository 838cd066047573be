"""A tar of published files, streamed from the store and of known length."""

import tarfile
from collections.abc import Iterator, Sequence

from jobs.artifacts import ArtifactStore, checked
from jobs.tables import Artifact

END = b"\0" * (2 * tarfile.BLOCKSIZE)


def tar_size(artifacts: Sequence[Artifact]) -> int:
    """Length of the tar in bytes."""
    return sum(len(_header(a)) + a.size_bytes + _padding(a) for a in artifacts) + len(END)


def tar_stream(store: ArtifactStore, artifacts: Sequence[Artifact]) -> Iterator[bytes]:
    """The tar's bytes. A file that is not as it was published breaks the stream off rather than pass for whole."""
    for artifact in artifacts:
        yield _header(artifact)
        yield from checked(store.stream(artifact.key), artifact.key, artifact.sha256)
        yield b"\0" * _padding(artifact)
    yield END


def _header(artifact: Artifact) -> bytes:
    info = tarfile.TarInfo(artifact.name)
    info.size = artifact.size_bytes
    info.mtime = int(artifact.created_at.timestamp())
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(artifact: Artifact) -> int:
    return -artifact.size_bytes % tarfile.BLOCKSIZE
