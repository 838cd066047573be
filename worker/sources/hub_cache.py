"""Keep the hub client's cache below a limit: the least recently used blobs are removed, but none that a job uses.

As in `worker.sources.download_cache`, each job has a folder of hard links. The client downloads missing blobs again.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from worker.sources.remote_folder import SourceError

ATTEMPTS = 3
# Suffix of the files that the client is downloading.
UNFINISHED = ".incomplete"
UNFINISHED_SECONDS = 3600


def hold(download: Callable[[], Path], folder: Path) -> None:
    """Link the files of the snapshot that `download` returns into a new `folder`; a link counts as a use.

    Raises `SourceError` where other jobs remove the files again before they are linked, because the cache is full.
    """
    folder.mkdir()
    retrying = Retrying(
        retry=retry_if_exception_type(FileNotFoundError), stop=stop_after_attempt(ATTEMPTS), reraise=True
    )
    try:
        retrying(lambda: _link(download(), folder))
    except FileNotFoundError:
        raise SourceError(
            "insufficient_storage", "the model was removed from the worker's full cache again; submit later"
        ) from None


def make_room(hub: Path, limit_bytes: int) -> None:
    """Remove blobs that no job uses, the least recently used first, until no more than `limit_bytes` are left."""
    blobs = []
    for path in hub.glob("*/blobs/*"):
        with suppress(FileNotFoundError):
            blobs.append((path.stat().st_mtime_ns, path, path.stat().st_size))
    total = sum(size for _, _, size in blobs)
    for changed_at, path, size in sorted(blobs):
        if total <= limit_bytes:
            return
        being_written = path.suffix == UNFINISHED and time.time() - changed_at / 1e9 < UNFINISHED_SECONDS
        with suppress(FileNotFoundError):
            if not being_written and path.stat().st_nlink == 1:
                path.unlink()
                total -= size


def _link(snapshot: Path, folder: Path) -> None:
    for file in snapshot.rglob("*"):
        target = folder / file.relative_to(snapshot)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_dir():
            target.unlink(missing_ok=True)
            target.hardlink_to(file.resolve(strict=True))
            os.utime(target)
