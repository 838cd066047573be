"""Finished rows of a long benchmark in a file, so that a stopped command goes on where it was.

One row a line, as JSON: `{"settings": {...}, "result": {...}}`. Several processes may add to one file.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class ResultsFile:
    """The rows of `path`, which need not be there yet. Settings and results are what JSON can hold."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The newest result with exactly these settings, or None."""
        wanted = _as_read(settings)
        newest = None
        for row, result in self.rows():
            if row == wanted:
                newest = result
        return newest

    def add(self, settings: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns."""
        line = json.dumps({"settings": settings, "result": result}).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            kept = file.read()
            # What a process was killed in the middle of writing would spoil the next row too.
            file.truncate(kept.rfind(b"\n") + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Settings and result of every whole line, oldest first."""
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                row = json.loads(line)
                yield row["settings"], row["result"]


def _as_read(settings: Mapping[str, Any]) -> Any:
    """What the file gives back for these settings: a tuple, for one, comes back as a list."""
    return json.loads(json.dumps(settings))
