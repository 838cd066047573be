"""A cache of results on disk: files named by a digest of everything the result depends on, limited in total size.

Each result is one `.npz` file, written under a temporary name and then renamed. So several jobs may read and write at
once: a reader sees a complete result or none. Damaged files are treated as missing.
"""

import hashlib
import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LIMIT_BYTES = 1 << 30
UNFINISHED_SECONDS = 3600
FACTS = "facts"
_UNREADABLE = (OSError, zipfile.BadZipFile, ValueError, KeyError)
# Any JSON: each user of the cache has its own keys and facts.
Key = Mapping[str, Any]
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class CachedResult:
    """Arrays by name, and facts that can be written as JSON."""

    arrays: dict[str, np.ndarray]
    facts: Facts


@dataclass(frozen=True)
class Cache:
    """The cached results in one folder; the least recently used are deleted beyond `limit_bytes` in total.

    `received` is a folder with results that another machine has kept, which are only read. `on_keep` is called with the
    file of every result that is kept.
    """

    folder: Path
    limit_bytes: int = LIMIT_BYTES
    received: Path | None = None
    on_keep: Callable[[Path], None] | None = None

    def find(self, key: Key) -> CachedResult | None:
        """The result of a key, or None where it is missing, damaged or unreadable."""
        return self._find(self._path(key), key) or (
            self._find(self.received / self._path(key).name, key) if self.received else None
        )

    def _find(self, path: Path, key: Key) -> CachedResult | None:
        try:
            content = path.read_bytes()
            result = _read(content, key)
        except _UNREADABLE:
            return None
        with suppress(OSError):
            os.utime(path)
        return result

    def find_facts(self, key: Key) -> Facts | None:
        """The facts alone of a key's result, whose arrays are not read and may be damaged; None as for `find`."""
        try:
            with zipfile.ZipFile(self._path(key)) as archive:
                content = archive.read(f"{FACTS}.npy")
            return _facts(str(np.load(io.BytesIO(content), allow_pickle=False)), key)
        except _UNREADABLE:
            return None

    def keep(self, key: Key, result: CachedResult) -> Path | None:
        """Write a result, then delete old ones beyond the limit; one larger than the limit is not written.

        Returns the file. Errors of the disk are ignored and give None: they only make the next job slower.
        """
        if sum(array.nbytes for array in result.arrays.values()) > self.limit_bytes:
            return None
        path = None
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as file:
                try:
                    facts = json.dumps({"key": dict(key), **result.facts})
                    np.savez(file, allow_pickle=False, **{FACTS: np.array(facts)}, **result.arrays)
                    file.close()
                    Path(file.name).replace(self._path(key))
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            self._delete_beyond_limit()
            path = self._path(key)
        if path is not None and self.on_keep is not None:
            self.on_keep(path)
        return path

    def drop(self, key: Key) -> None:
        """Delete the result of a key, if there is one."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key_digest(key)}.npz"

    def _delete_beyond_limit(self) -> None:
        for unfinished in self.folder.glob("*.part"):
            # No writer takes this long, so the one of this file was killed.
            with suppress(FileNotFoundError):
                if time.time() - unfinished.stat().st_mtime > UNFINISHED_SECONDS:
                    unfinished.unlink()
        files = []
        for path in self.folder.glob("*.npz"):
            with suppress(FileNotFoundError):
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def key_digest(key: Key) -> str:
    """The sha256 of a key in hexadecimal; the order of its parts makes no difference."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _read(content: bytes, key: Key) -> CachedResult:
    # Checksums first, because the headers of damaged arrays may claim any size.
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.testzip() is not None:
            raise zipfile.BadZipFile("a checksum does not match")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        content_by_name = {name: arrays[name] for name in arrays.files}
    facts = _facts(str(content_by_name.pop(FACTS)), key)
    return CachedResult(content_by_name, facts)


def _facts(content: str, key: Key) -> Facts:
    facts: dict[str, Any] = json.loads(content)
    if key_digest(facts.pop("key")) != key_digest(key):
        raise ValueError("the file holds the result of another key")
    return facts
