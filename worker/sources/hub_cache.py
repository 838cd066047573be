"""The hub client's cache, held below a bound: blobs that were not used for longest go, and never one that a job uses.

As in `worker.sources.download_cache`, each job has a folder of hard links. What the client does not find, it downloads.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker.sources.remote_folder import SourceError

TRIES = 3
# The client writes to these while it downloads.
UNFINISHED = ".incomplete"
UNFINISHED_SECONDS = 3600


def hold(download: Callable[[], Path], folder: Path) -> None:
    """Link the files of the snapshot that `download` gives into a new `folder`; a link counts as a use.

    Raises `SourceError` where other jobs need the cache's room so badly that files go before they are linked.
    """
    folder.mkdir()
    for _ in range(TRIES):
        with suppress(FileNotFoundError):
            snapshot = download()
            for file in snapshot.rglob("*"):
                target = folder / file.relative_to(snapshot)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not file.is_dir():
                    target.unlink(missing_ok=True)
                    target.hardlink_to(file.resolve(strict=True))
                    os.utime(target)
            return
    raise SourceError("insufficient_storage", "the model was removed from the worker's full cache again; submit later")


def make_room(hub: Path, limit_bytes: int) -> None:
    """Remove blobs that no job uses, the longest unused first, until no more than `limit_bytes` are left."""
    found = []
    for path in hub.glob("*/blobs/*"):
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime_ns, path, path.stat().st_size))
    total = sum(size for _, _, size in found)
    for changed_at, path, size in sorted(found):
        if total <= limit_bytes:
            return
        being_written = path.suffix == UNFINISHED and time.time() - changed_at / 1e9 < UNFINISHED_SECONDS
        with suppress(FileNotFoundError):
            if not being_written and path.stat().st_nlink == 1:
                path.unlink()
                total -= size
