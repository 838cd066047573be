"""Downloaded files on a worker's disk, each under the identity its place gave it; bounded, least recently used first.

A file is written as `KEY.SIZE.part` by whoever holds its lock, and renamed once it is whole: what a killed worker
leaves is gone on with. A job does not read the cache but hard links into a folder of its own, so a file that more than
one name leads to is in use, and one that is removed under a job that just linked it stays whole for that job.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from worker.sources.remote_folder import RemoteFile, SourceError

READ_ONLY = 0o444
Read = Callable[[int], Iterator[bytes]]


@dataclass(frozen=True)
class DownloadCache:
    """`folder` and the folders of jobs lie on one file system."""

    folder: Path
    limit_bytes: int

    def link(self, file: RemoteFile, target: Path, read: Read, wait: Callable[[], None]) -> None:
        """Make `target` a link to the file, which is completed first: `read(start)` gives its bytes from there on.

        While another process downloads it, `wait` is called again and again; it sleeps, or raises to give up. Raises
        `SourceError` with `insufficient_storage`, and what `read` raises; what was written until then is kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self.folder / _key(file)
        while not _linked(whole, target):
            self._complete(whole, file, read, wait)

    def _complete(self, whole: Path, file: RemoteFile, read: Read, wait: Callable[[], None]) -> None:
        part = whole.with_name(f"{whole.name}.{file.size_bytes}.part")
        with _locked(part, wait) as descriptor:
            if whole.exists():
                # Its lock was taken just after another process had renamed it.
                part.unlink()
                return
            self._make_room(part)
            _fill(descriptor, file, read)
            os.fchmod(descriptor, READ_ONLY)
            part.rename(whole)

    def _make_room(self, own: Path) -> None:
        """Remove what nobody uses, the longest unused first, until what is there and what is coming fit."""
        with (self.folder / ".lock").open("w") as lock:
            # Held for as long as listing a folder takes.
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = []
            for path in self.folder.glob("[!.]*"):
                with suppress(FileNotFoundError):
                    found.append((path.stat().st_mtime_ns, path))
            total = sum(_reserved(path) for _, path in found)
            missing = _reserved(own) - own.stat().st_size
            for _, path in sorted(found):
                if total <= self.limit_bytes and missing <= shutil.disk_usage(self.folder).free:
                    return
                size = _reserved(path)
                if path != own and _removed(path):
                    total -= size
            if total > self.limit_bytes or missing > shutil.disk_usage(self.folder).free:
                raise SourceError(
                    "insufficient_storage",
                    f"the worker's download cache has no room for {_reserved(own):,} bytes more: running jobs use the "
                    "rest of SGLP_SOURCE_CACHE_BYTES or of the disk; submit again later, or give it more",
                )


def _key(file: RemoteFile) -> str:
    """Content is known by what its place says of it; where it says nothing, nothing is found again."""
    known = file.validator or os.urandom(16).hex()
    return hashlib.sha256(repr((file.uri, file.size_bytes, known, file.version)).encode()).hexdigest()


def _linked(whole: Path, target: Path) -> bool:
    try:
        target.hardlink_to(whole)
    except FileNotFoundError:
        return False
    os.utime(target)
    return True


@contextmanager
def _locked(part: Path, wait: Callable[[], None]) -> Iterator[int]:
    """The file at `part`, opened, locked, and still the one that has this name."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if _try_lock(descriptor) and _names(part, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        wait()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _names(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _fill(descriptor: int, file: RemoteFile, read: Read) -> None:
    start = os.fstat(descriptor).st_size
    for chunk in read(start):
        start += len(chunk)
        if start > file.size_bytes:
            os.ftruncate(descriptor, 0)
            raise SourceError("unsafe_format", f"{file.uri} is longer than its place said it was")
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]
    assert start == file.size_bytes
    os.fsync(descriptor)


def _reserved(path: Path) -> int:
    """What a file will take once it is whole."""
    if path.suffix == ".part":
        return int(path.name.split(".")[1])
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _removed(path: Path) -> bool:
    """Remove a file that no job uses and nobody writes; says whether it is gone."""
    with suppress(FileNotFoundError):
        if path.suffix == ".part":
            descriptor = os.open(path, os.O_RDWR)
            try:
                if not _try_lock(descriptor):
                    return False
                path.unlink()
            finally:
                os.close(descriptor)
        elif path.stat().st_nlink > 1:
            return False
        else:
            path.unlink()
    return True
