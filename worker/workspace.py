"""The folders of a running job. The supervisor removes them at its end; if it was killed, the next job does."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.settings import Settings

LOCK = "lock"


@dataclass(frozen=True)
class JobFolders:
    """`directory` is the job's own, `links` has the downloaded files that it uses, on the disk of their cache.

    `cache` has the results of its tenant's earlier jobs, and is not removed.
    """

    directory: Path
    links: Path
    cache: Path


@contextmanager
def job_folders(settings: Settings, job_id: str, tenant: str) -> Iterator[JobFolders]:
    """The folders of a job; `directory` and `links` are new, and removed at the end."""
    cache = settings.cache_dir.absolute() / "shared" if settings.share_results else tenant_caches(settings) / tenant
    with workspace(settings.work_dir, job_id) as directory, workspace(_links(settings), job_id) as links:
        yield JobFolders(directory, links, cache)


def tenant_caches(settings: Settings) -> Path:
    """Where each tenant has a folder with the results of its jobs."""
    return settings.cache_dir.absolute() / "tenants"


def remove_abandoned_jobs(settings: Settings) -> None:
    """Remove what workers that were killed have left of their jobs."""
    remove_abandoned(settings.work_dir)
    remove_abandoned(_links(settings))


def _links(settings: Settings) -> Path:
    return settings.cache_dir.absolute() / "sources" / "in_use"


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
