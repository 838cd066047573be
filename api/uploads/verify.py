"""Whether an upload's files lie in the store as they were declared, checked within the time of one request."""

import time
from collections.abc import Sequence

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from jobs.artifacts import ArtifactStore
from jobs.locations.uploads import key_of
from jobs.repository import DeclaredFile

# Proxies give up on an answer after a minute.
CHECK_SECONDS = 30.0
# Threads of their own: whoever completes large uploads keeps no other request waiting.
AT_ONCE = CapacityLimiter(4)


async def faults_of(store: ArtifactStore, upload_id: str, files: Sequence[DeclaredFile]) -> dict[int, str]:
    """What is wrong, by the number of the file; such a file is deleted from the store.

    Every file must be there with its size. Contents are compared as far as they can be read in `CHECK_SECONDS`, small
    files first; the others are compared by the job that reads them, as all are.
    """
    until = time.monotonic() + CHECK_SECONDS
    return await run_sync(_faults, store, upload_id, files, until, limiter=AT_ONCE)


def _faults(store: ArtifactStore, upload_id: str, files: Sequence[DeclaredFile], until: float) -> dict[int, str]:
    numbered = sorted(enumerate(files), key=lambda each: each[1].size_bytes)
    faults = {number: fault for number, file in numbered if (fault := _wrong_size(store, upload_id, file))}
    for number, file in numbered:
        if number not in faults and store.sha256(key_of(upload_id, file.name), until) not in {file.sha256, None}:
            faults[number] = f"{file.name} does not have the declared sha256"
    for number in faults:
        store.delete_prefix(key_of(upload_id, files[number].name))
    return dict(sorted(faults.items()))


def _wrong_size(store: ArtifactStore, upload_id: str, file: DeclaredFile) -> str | None:
    size_bytes = store.size_bytes(key_of(upload_id, file.name))
    if size_bytes is None:
        return f"{file.name} was not sent"
    if size_bytes != file.size_bytes:
        return f"{file.name} was declared with {file.size_bytes} bytes and has {size_bytes}"
    return None
