"""Removal of unpublished objects, expired files and audit events, and old idempotency keys."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.database import transaction
from jobs.locations.uploads import UPLOADS, key_of
from jobs.repository import AuditRepository, UpkeepRepository
from jobs.settings import Settings

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
        """Delete the uploads of attempts that did not publish them."""
        with transaction(self._sessions) as session:
            finished = UpkeepRepository(session).unswept(self._after_seconds, BATCH)
        for job_id in finished:
            with _retried_next_round(job_id):
                self._sweep_job(job_id)

    def remove_expired(self) -> None:
        """Delete the objects of published files whose retention is over."""
        with transaction(self._sessions) as session:
            expired = UpkeepRepository(session).expired_artifacts(BATCH)
        for artifact in expired:
            with _retried_next_round(artifact.key):
                self._store.delete_prefix(artifact.key)
                with transaction(self._sessions) as session:
                    UpkeepRepository(session).mark_removed([artifact])

    def remove_deleted_jobs(self) -> None:
        """Delete all objects of deleted jobs, once none of their attempts can still be uploading."""
        with transaction(self._sessions) as session:
            deleted = UpkeepRepository(session).deleted_jobs(self._after_seconds, BATCH)
        for job_id in deleted:
            with _retried_next_round(job_id):
                self._store.delete_prefix(f"jobs/{job_id}/")
                with transaction(self._sessions) as session:
                    UpkeepRepository(session).forget_deleted_job(job_id)

    def expire_uploads(self) -> None:
        """Delete expired uploads, including those that were never completed."""
        with transaction(self._sessions) as session:
            UpkeepRepository(session).expire_uploads(BATCH)

    def remove_orphans(self) -> None:
        """Delete objects of uploads that have no row. The row is created before the objects and deleted before them,
        so an object without a row belongs to no upload.
        """
        stored = self._store.folders(f"{UPLOADS}/")
        for start in range(0, len(stored), BATCH):
            with transaction(self._sessions) as session:
                orphans = UpkeepRepository(session).unknown_uploads(stored[start : start + BATCH])
            for upload_id in orphans:
                with _retried_next_round(upload_id):
                    self._store.delete_prefix(f"{UPLOADS}/{upload_id}/")

    def remove_oversized(self) -> None:
        """Delete uploaded files that are larger than declared. A signed URL accepts any number of bytes, and only the
        declared ones are counted for a quota.
        """
        with transaction(self._sessions) as session:
            declared = UpkeepRepository(session).recent_uploads()
        for upload_id, sizes in declared.items():
            with _retried_next_round(upload_id):
                declared_sizes = {key_of(upload_id, name): size_bytes for name, size_bytes in sizes.items()}
                for key, size_bytes in self._store.sizes(f"{UPLOADS}/{upload_id}/").items():
                    if size_bytes > declared_sizes.get(key, 0):
                        log.warning("a file of an upload was larger than declared", upload_id=upload_id)
                        self._store.delete(key)

    def forget_keys(self) -> None:
        """Delete expired idempotency keys."""
        with transaction(self._sessions) as session:
            UpkeepRepository(session).forget_keys()

    def forget_audit_events(self) -> None:
        """Delete audit events whose retention is over."""
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
def _retried_next_round(name: str) -> Iterator[None]:
    """An object that cannot be removed now is tried again in the next round, and does not delay the others."""
    try:
        yield
    except StorageUnavailable as error:
        log.warning("an object could not be removed", name=name, error=str(error))


def attempt_of(key: str) -> str:
    """`jobs/<id>/<fence>/`, the part of an artifact's key that one attempt shares."""
    return "/".join(key.split("/")[:3]) + "/"
