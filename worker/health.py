"""What a worker says of itself while it serves: whether it can confine jobs, and whether the artifact store works."""

import math
import tempfile
import threading
import time
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, InsufficientStorage, StorageUnavailable
from jobs.database import DATABASE_DOWN, transaction
from jobs.repository import CONFINEMENT, STORE, HealthRepository
from worker.confinement import weaknesses

INTERVAL_SECONDS = 10.0
# Hints come in numbers; so long the answer of the store to one of them is that to the others.
KNOWN_SECONDS = 5.0
# All workers write the same object with the same content.
PROBE_KEY, PROBE = "health/worker", b"Every worker writes this and reads it back before it takes a job.\n"

log = structlog.get_logger(__name__)


class WorkerHealth:
    """Stores the worker's troubles, for `/readyz`. What works is not stored: another worker may be in trouble."""

    def __init__(self, sessions: sessionmaker[Session], store: ArtifactStore) -> None:
        self._sessions, self._store = sessions, store
        self._lock = threading.Lock()
        self._looked_at = -math.inf
        self._works = False

    def start(self) -> None:
        """Look again every few seconds, on a thread that ends with the process."""
        threading.Thread(target=self._repeat, daemon=True, name="health").start()

    def store_works(self) -> bool:
        """Whether an object could be written and read back a moment ago; stores the trouble if not."""
        with self._lock:
            if time.monotonic() - self._looked_at > KNOWN_SECONDS:
                self._works = self._try_store()
                self._looked_at = time.monotonic()
            return self._works

    def _try_store(self) -> bool:
        try:
            with tempfile.TemporaryDirectory() as directory:
                file = Path(directory) / "probe"
                file.write_bytes(PROBE)
                self._store.put(PROBE_KEY, file, "text/plain")
        except (StorageUnavailable, InsufficientStorage) as error:
            self._record(STORE, f"a worker takes no jobs: {error}")
            return False
        return True

    def _repeat(self) -> None:
        trouble = "; ".join(weaknesses())
        while True:
            if trouble:
                self._record(CONFINEMENT, trouble)
            self.store_works()
            time.sleep(INTERVAL_SECONDS)

    def _record(self, part: str, trouble: str) -> None:
        log.warning("the worker is in trouble", part=part, trouble=trouble)
        try:
            with transaction(self._sessions) as session:
                HealthRepository(session).record(part, trouble)
        except DATABASE_DOWN as error:
            log.warning("the trouble could not be stored", error=str(error))
