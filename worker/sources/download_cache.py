"""A cache of downloaded files on a worker's disk. When it is full, the least recently used files are removed.

A file's key is a hash of its URI, size, version and etag. The process that holds its lock writes it as `KEY.SIZE.part`
and renames it once it is complete; a part that a killed worker left is continued. Each job has a folder of hard links
to the files it uses. So a file with more than one link is in use, and a job keeps its files even if the cache removes
them.
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
    """`folder` must be on the same file system as the folders of jobs."""

    folder: Path
    limit_bytes: int

    def link(self, file: RemoteFile, target: Path, read: Read, wait: Callable[[], None]) -> None:
        """Make `target` a link to the file, downloaded first if necessary: `read(start)` yields its bytes from `start`.

        While another process downloads it, `wait` is called repeatedly; it sleeps, or raises to give up. Raises
        `SourceError` with `insufficient_storage`, and what `read` raises; the bytes written until then are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self.folder / _key(file)
        while not _linked(whole, target):
            self._complete(whole, file, read, wait)

    def _complete(self, whole: Path, file: RemoteFile, read: Read, wait: Callable[[], None]) -> None:
        part = whole.with_name(f"{whole.name}.{file.size_bytes}.part")
        with _locked(part, wait) as descriptor:
            if whole.exists():
                # Another process completed and renamed it just before this one got the lock.
                part.unlink()
                return
            self._make_room(part)
            _fill(descriptor, file, read)
            os.fchmod(descriptor, READ_ONLY)
            part.rename(whole)

    def _make_room(self, own: Path) -> None:
        """Remove files that no job uses, the least recently used first, until the cache and the new file fit."""
        with (self.folder / ".lock").open("w") as lock:
            # Held only while the folder is listed.
            fcntl.flock(lock, fcntl.LOCK_EX)
            files = []
            for path in self.folder.glob("[!.]*"):
                with suppress(FileNotFoundError):
                    files.append((path.stat().st_mtime_ns, path))
            total = sum(_reserved(path) for _, path in files)
            missing = _reserved(own) - own.stat().st_size
            for _, path in sorted(files):
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
    """The same for the same content. A file without a validator gets a new key each time: it is always downloaded."""
    validator = file.validator or os.urandom(16).hex()
    return hashlib.sha256(repr((file.uri, file.size_bytes, validator, file.version)).encode()).hexdigest()


def _linked(whole: Path, target: Path) -> bool:
    try:
        target.hardlink_to(whole)
    except FileNotFoundError:
        return False
    os.utime(target)
    return True


@contextmanager
def _locked(part: Path, wait: Callable[[], None]) -> Iterator[int]:
    """The descriptor of the file at `part`, which is locked and has not been renamed or removed since."""
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
            raise SourceError("unsafe_format", f"{file.uri} is longer than its server said it was")
        view = memoryview(chunk)
        while view:
            view = view[os.write(descriptor, view) :]
    assert start == file.size_bytes
    os.fsync(descriptor)


def _reserved(path: Path) -> int:
    """The size of a file once it is complete."""
    if path.suffix == ".part":
        return int(path.name.split(".")[1])
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _removed(path: Path) -> bool:
    """Remove a file unless a job uses it or a process writes it; True if the file is gone."""
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
