"""Results kept on disk by what they were made from: found again by their key, never trusted blindly, bounded in size.

An entry is one `.npz` file, written beside its place and renamed into it, so several jobs may read and write at once:
a reader sees a whole entry or none, and two writers of one key write the same.
"""

import hashlib
import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_BYTES = 1 << 30
UNFINISHED_SECONDS = 3600
FACTS = "facts"
Key = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """Arrays by name, and facts that are JSON."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Cache:
    """Entries of one kind in one folder; those used least recently go once all are larger than `limit_bytes`."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def find(self, key: Key) -> Entry | None:
        """The entry of a key, or None where there is none that can be read, or only a damaged one."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            entry = _read(content, key)
        except (OSError, zipfile.BadZipFile, ValueError, KeyError):
            return None
        with suppress(OSError):
            os.utime(path)
        return entry

    def keep(self, key: Key, entry: Entry) -> None:
        """Write an entry, then make room. Where the disk does not take it, only the next job takes longer.

        One that is larger than the limit by itself is not written at all.
        """
        if sum(array.nbytes for array in entry.arrays.values()) > self.limit_bytes:
            return
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                try:
                    facts = json.dumps({"key": dict(key), **entry.facts})
                    np.savez(file, allow_pickle=False, **{FACTS: np.array(facts)}, **entry.arrays)
                    file.close()
                    Path(file.name).replace(self._path(key))
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            self._make_room()

    def drop(self, key: Key) -> None:
        """Remove the entry of a key, if there is one."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        return self.folder / f"{name_of(key)}.npz"

    def _make_room(self) -> None:
        for unfinished in self.folder.glob("*.part"):
            # Its writer was killed; one that still writes is younger.
            with suppress(FileNotFoundError):
                if time.time() - unfinished.stat().st_mtime > UNFINISHED_SECONDS:
                    unfinished.unlink()
        entries = []
        for path in self.folder.glob("*.npz"):
            with suppress(FileNotFoundError):
                entries.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def name_of(key: Key) -> str:
    """The sha256 of a key, whatever the order of its parts."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _read(content: bytes, key: Key) -> Entry:
    # Checksums first: the headers of damaged arrays may claim any size.
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("a checksum does not match")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    facts = json.loads(str(found.pop(FACTS)))
    if name_of(facts.pop("key")) != name_of(key):
        raise ValueError("an entry of another key")
    return Entry(found, facts)
