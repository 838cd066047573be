"""Where a result was written beside the store of the service."""

from jobs.progress import Document


class PushedFile(Document):
    """A file at the place that `output.uri` names."""

    name: str
    size_bytes: int
    sha256: str


class Pushed(Document):
    """Where the result was written beside the service's own store; `commit` on a model hub."""

    uri: str
    manifest: str
    files: list[PushedFile]
    commit: str | None = None
