"""What a download asks of the place that files come from, whatever protocol it speaks, and how it refuses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


class SourceError(Exception):
    """A refusal with a code of the service's closed list; the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Interrupted(Exception):
    """The transfer broke, or the place is busy; going on from where it was may work."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as its place describes it; `validator` (its etag, or when it was changed) is None where there is none."""

    name: str
    uri: str
    size_bytes: int
    validator: str | None
    version: str | None

    def facts(self) -> dict[str, str | int | None]:
        """What a job records of it."""
        return {"uri": self.uri, "size_bytes": self.size_bytes, "validator": self.validator, "version": self.version}


class Place(Protocol):
    """A folder of files. Both methods raise `SourceError` and `Interrupted`."""

    def find(self, name: str) -> RemoteFile | None:
        """The file of this name, or None where there is none."""

    def read(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` up to, not including, `end`; refuses a file that is not the one that was found."""


def changed(file: RemoteFile) -> SourceError:
    """The file is not the one that was found."""
    return SourceError("source_unreachable", f"{file.uri} was changed while it was being read; submit the job again")
