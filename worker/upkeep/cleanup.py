"""What the scheduler removes: objects nobody published, files and audit events whose time is over, old keys."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.database import transaction
from jobs.repository import AuditRepository, UpkeepRepository
from jobs.settings import Settings
from jobs.uploads import UPLOADS, key_of

BATCH = 100
MOST_AUDIT_EVENTS = 10_000

log = structlog.get_logger(__name__)


class Sweeper:
    """Every method may run any number of times and in any number of processes at once."""

    def __init__(self, sessions: sessionmaker[Session], store: ArtifactStore, settings: Settings) -> None:
        self._sessions = sessions
        self._store = store
        self._after_seconds = settings.sweep_after_seconds
        self._audit_retention_days = settings.audit_retention_days

    def sweep_finished(self) -> None:
        """Delete what attempts that did not end well have uploaded."""
        with transaction(self._sessions) as session:
            finished = UpkeepRepository(session).unswept(self._after_seconds, BATCH)
        for job_id in finished:
            with _left_for_later(job_id):
                self._sweep_job(job_id)

    def remove_expired(self) -> None:
        """Delete the objects of published files that are kept no longer."""
        with transaction(self._sessions) as session:
            expired = UpkeepRepository(session).expired_artifacts(BATCH)
        for artifact in expired:
            with _left_for_later(artifact.key):
                self._store.delete_prefix(artifact.key)
                with transaction(self._sessions) as session:
                    UpkeepRepository(session).mark_removed([artifact])

    def remove_leftovers(self) -> None:
        """Delete all objects of deleted jobs, once no attempt of theirs can be uploading any more."""
        with transaction(self._sessions) as session:
            deleted = UpkeepRepository(session).leftovers(self._after_seconds, BATCH)
        for job_id in deleted:
            with _left_for_later(job_id):
                self._store.delete_prefix(f"jobs/{job_id}/")
                with transaction(self._sessions) as session:
                    UpkeepRepository(session).forget_leftover(job_id)

    def expire_uploads(self) -> None:
        """Delete uploads whose time is over, those that were never completed included."""
        with transaction(self._sessions) as session:
            UpkeepRepository(session).expire_uploads(BATCH)

    def remove_orphans(self) -> None:
        """Delete the objects of uploads that are not there any more. The row comes first and goes first, so that an
        object without one belongs to nobody.
        """
        stored = self._store.folders(f"{UPLOADS}/")
        for start in range(0, len(stored), BATCH):
            with transaction(self._sessions) as session:
                orphans = UpkeepRepository(session).unknown_uploads(stored[start : start + BATCH])
            for upload_id in orphans:
                with _left_for_later(upload_id):
                    self._store.delete_prefix(f"{UPLOADS}/{upload_id}/")

    def remove_oversized(self) -> None:
        """Delete what is larger than was declared. A signed address takes any number of bytes, and only the declared
        ones are counted for a quota.
        """
        with transaction(self._sessions) as session:
            declared = UpkeepRepository(session).recent_uploads()
        for upload_id, sizes in declared.items():
            with _left_for_later(upload_id):
                declared_sizes = {key_of(upload_id, name): size_bytes for name, size_bytes in sizes.items()}
                for key, size_bytes in self._store.sizes(f"{UPLOADS}/{upload_id}/").items():
                    if size_bytes > declared_sizes.get(key, 0):
                        log.warning("a file of an upload was larger than declared", upload_id=upload_id)
                        self._store.delete(key)

    def forget_keys(self) -> None:
        """Delete idempotency keys that have done their duty."""
        with transaction(self._sessions) as session:
            UpkeepRepository(session).forget_keys()

    def forget_audit_events(self) -> None:
        """Delete audit events that are kept no longer."""
        if self._audit_retention_days:
            with transaction(self._sessions) as session:
                AuditRepository(session).forget_old(self._audit_retention_days, MOST_AUDIT_EVENTS)

    def _sweep_job(self, job_id: str) -> None:
        with transaction(self._sessions) as session:
            published = {attempt_of(key) for key in UpkeepRepository(session).published_keys(job_id)}
        for prefix in {attempt_of(key) for key in self._store.list(f"jobs/{job_id}/")} - published:
            self._store.delete_prefix(prefix)
        with transaction(self._sessions) as session:
            UpkeepRepository(session).mark_swept(job_id)


@contextmanager
def _left_for_later(what: str) -> Iterator[None]:
    """What cannot be removed now is looked at again in the next round; the others do not wait for it."""
    try:
        yield
    except StorageUnavailable as error:
        log.warning("something could not be removed", what=what, error=str(error))


def attempt_of(key: str) -> str:
    """`jobs/<id>/<fence>/`, the part of an artifact's key that one attempt shares."""
    return "/".join(key.split("/")[:3]) + "/"
