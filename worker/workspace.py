"""A folder per running job. It goes with the job, and where the worker was killed, with the next job on that disk."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "lock"


@contextmanager
def workspace(root: Path, name: str) -> Iterator[Path]:
    """A new folder below `root` that is removed at the end."""
    root.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=root, prefix=f".new-{name}-"))
    try:
        with (directory / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Only under its final name is a folder looked at by others, and by then it is locked.
            directory = directory.rename(root / directory.name.removeprefix(".new-"))
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Remove the folders whose lock nobody holds: the kernel frees a lock when its holder dies."""
    for lock_file in root.glob("[!.]*/" + LOCK):
        # A held lock, or a folder that went with its job in the meantime, are both left alone.
        with suppress(BlockingIOError, FileNotFoundError), lock_file.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)
