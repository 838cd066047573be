"""The interface of a folder to download from, the same for buckets and websites, and its errors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from jobs.progress import SourceFile


class SourceError(Exception):
    """A download that is refused or impossible: an error code of the service, and a message that says what to do."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Interrupted(Exception):
    """The connection broke, or the server is busy; continuing from the last byte received may work."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its server describes it. `validator` is its etag or time of change, None if it sends neither."""

    name: str
    uri: str
    size_bytes: int
    validator: str | None
    version: str | None

    def facts(self) -> SourceFile:
        """The file in the job's record."""
        return SourceFile(uri=self.uri, size_bytes=self.size_bytes, validator=self.validator, version=self.version)


class RemoteFolder(Protocol):
    """A folder of files. Both methods raise `SourceError` and `Interrupted`."""

    def find(self, name: str) -> RemoteFile | None:
        """The file of this name, or None where there is none."""

    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`; refuses a file that has changed since `find`."""


def changed(file: RemoteFile) -> SourceError:
    """The file has changed since `find`."""
    return SourceError("source_unreachable", f"{file.uri} was changed while it was being read; submit the job again")
