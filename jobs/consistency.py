"""Whether database and artifact store fit together: after a restore, or whenever an operator wants to know.

It may run beside the service: what changes in between is looked at a second time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.database import transaction
from jobs.locations.uploads import UPLOADS
from jobs.repository import InventoryRepository, StoredFile

BATCH = 500
# What workers write to see whether the store works.
HEALTH = "health"


@dataclass
class Comparison:
    """`files` and `size_bytes` are what rows say there must be; the rest are keys. Only `missing`, `wrong_size` and
    `wrong_content` are losses: an object without a row costs nothing but its room.
    """

    files: int = 0
    size_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    wrong_size: list[str] = field(default_factory=list)
    wrong_content: list[str] = field(default_factory=list)
    without_row: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether every row has its object."""
        return not (self.missing or self.wrong_size or self.wrong_content)

    def keys_by_fault(self) -> dict[str, list[str]]:
        """The keys that do not fit, by what is wrong."""
        return {
            "missing": self.missing,
            "wrong size": self.wrong_size,
            "wrong content": self.wrong_content,
            "without a row": self.without_row,
        }


def compare(sessions: sessionmaker[Session], store: ArtifactStore, *, read_contents: bool = False) -> Comparison:
    """Compare every row with its object and every object with its row; with `read_contents` also the sha256, for which
    every file is read. Raises `StorageUnavailable`.
    """
    declared = _declared(sessions)
    sizes = store.sizes("")
    faults = {key: fault for key, file in declared.items() if (fault := _fault(file, sizes, store, read_contents))}
    still = _declared(sessions) if faults else {}
    comparison = Comparison(len(declared), sum(file.size_bytes for file in declared.values()))
    for key, fault in faults.items():
        if key in still:
            getattr(comparison, fault).append(key)
    unnamed = [key for key in sizes if key not in declared]
    comparison.without_row += _unexplained(sessions, unnamed)
    return comparison


def _declared(sessions: sessionmaker[Session]) -> dict[str, StoredFile]:
    with transaction(sessions) as session:
        inventory = InventoryRepository(session)
        return {file.key: file for files in (inventory.published(), inventory.uploaded()) for file in files}


def _fault(file: StoredFile, sizes: dict[str, int], store: ArtifactStore, read_contents: bool) -> str | None:
    if file.key not in sizes:
        return "missing"
    if sizes[file.key] != file.size_bytes:
        return "wrong_size"
    if read_contents and store.sha256(file.key, until=math.inf) != file.sha256:
        return "wrong_content"
    return None


def _unexplained(sessions: sessionmaker[Session], keys: Sequence[str]) -> Iterator[str]:
    """Objects that belong neither to a row nor to work that goes on; some may have been published in the meantime."""
    folders = {key: key.split("/")[:2] for key in keys}
    explained: set[tuple[str, str]] = set()
    with transaction(sessions) as session:
        inventory = InventoryRepository(session)
        finders: dict[str, Callable[[Sequence[str]], set[str]]] = {
            "jobs": inventory.working_jobs,
            UPLOADS: inventory.uploads,
        }
        for place, find in finders.items():
            ids = sorted({folder[1] for folder in folders.values() if folder[0] == place and len(folder) > 1})
            for start in range(0, len(ids), BATCH):
                explained |= {(place, each) for each in find(ids[start : start + BATCH])}
    published = _declared(sessions) if keys else {}
    for key in keys:
        if tuple(folders[key]) not in explained and folders[key][0] != HEALTH and key not in published:
            yield key
