"""A folder for each running job. The job removes it at its end; if the worker was killed, the next job does."""

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
            # Other processes ignore the temporary name, and under its final name the folder is already locked.
            directory = directory.rename(root / directory.name.removeprefix(".new-"))
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(root: Path) -> None:
    """Remove the folders whose lock nobody holds: the kernel frees a lock when its holder dies."""
    for lock_file in root.glob("[!.]*/" + LOCK):
        # The lock may be held, or the job may have removed its folder in the meantime.
        with suppress(BlockingIOError, FileNotFoundError), lock_file.open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock_file.parent, ignore_errors=True)
