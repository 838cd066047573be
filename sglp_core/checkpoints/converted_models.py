"""A folder of converted models, limited in size: those that were not used for longest are removed, none that is in use.

Each model is a folder, and beside it lies a lock file, which whoever uses the model holds. A folder that is being
written has its lock inside. The kernel frees the locks of processes that are killed.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from sglp_core.checkpoints.limits import require_space
from sglp_core.errors import InsufficientStorage

UNFINISHED = "converting-"
LOCK = "lock"


@dataclass(frozen=True)
class ConvertedModel:
    """A folder that stays as long as this object."""

    directory: Path
    _lock: TextIO = field(repr=False, compare=False)


@dataclass(frozen=True)
class ConvertedModels:
    """`limit_bytes` of None is no limit."""

    folder: Path
    limit_bytes: int | None = None

    def find_or_write(self, digest: str, write: Callable[[Path], None]) -> ConvertedModel:
        """The model of this digest. Where there is none, `write` writes it to a new directory, and calls `make_room`
        first.

        Two processes may write the same model at once.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        directory, lock = self.folder / digest, self._used(digest)
        try:
            if not directory.is_dir():
                self._write(directory, write)
        except BaseException:
            lock.close()
            if not directory.is_dir():
                _removed(Path(lock.name))
            raise
        os.utime(lock.name)
        return ConvertedModel(directory, lock)

    def make_room(self, needed_bytes: int) -> None:
        """Remove models until so many bytes more are within the limit. Raises `InsufficientStorage`."""
        for abandoned in self.folder.glob(f"{UNFINISHED}*"):
            if lock := _try_lock(abandoned / LOCK):
                with lock:
                    shutil.rmtree(abandoned, ignore_errors=True)
        if self.limit_bytes is not None:
            self._make_room(needed_bytes, self.limit_bytes)
        require_space(self.folder, needed_bytes, "the converted model")

    def _make_room(self, needed_bytes: int, limit_bytes: int) -> None:
        sizes = {lock: _size_bytes(lock.with_suffix("")) for lock in self.folder.glob("*.lock")}
        total = sum(sizes.values()) + needed_bytes
        for lock in sorted(sizes, key=_used_at):
            if total <= limit_bytes:
                return
            if _removed(lock):
                total -= sizes[lock]
        if total > limit_bytes:
            raise InsufficientStorage(
                f"the converted model needs {needed_bytes:,} bytes; with those in use that is more than may be kept "
                f"here ({limit_bytes:,})"
            )

    def _used(self, digest: str) -> TextIO:
        """The lock of the model, which may be missing."""
        path = self.folder / f"{digest}.lock"
        while True:
            lock = path.open("a")
            fcntl.flock(lock, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(lock.fileno())):
                    return lock
            # It was removed, with its model, before this process held it.
            lock.close()

    def _write(self, directory: Path, write: Callable[[Path], None]) -> None:
        scratch = Path(tempfile.mkdtemp(dir=self.folder, prefix=UNFINISHED))
        try:
            with (scratch / LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                write(scratch / "model")
                # Another process may have written the same model in the meantime.
                with suppress(OSError):
                    (scratch / "model").rename(directory)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _removed(lock_file: Path) -> bool:
    """Remove the model of this lock, unless it is in use."""
    lock = _try_lock(lock_file)
    if lock is None:
        return False
    with lock:
        shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
        lock_file.unlink(missing_ok=True)
    return True


def _try_lock(lock_file: Path) -> TextIO | None:
    """The lock, if nobody holds it."""
    try:
        lock = lock_file.open("r+")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _used_at(lock_file: Path) -> int:
    with suppress(FileNotFoundError):
        return lock_file.stat().st_mtime_ns
    return 0


def _size_bytes(directory: Path) -> int:
    size = 0
    for file in directory.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size
