"""Remove tenants that are being deleted, with everything they have in the database and the artifact store."""

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.database import transaction
from jobs.locations.uploads import UPLOADS
from jobs.repository import RemovalRepository
from jobs.settings import Settings

BATCH = 100

log = structlog.get_logger(__name__)


class TenantRemoval:
    """Objects go before the rows that name them, so what is interrupted is taken up again in the next round, by any
    scheduler.
    """

    def __init__(self, sessions: sessionmaker[Session], store: ArtifactStore, settings: Settings) -> None:
        self._sessions = sessions
        self._store = store
        self._after_seconds = settings.sweep_after_seconds

    def remove_tenants(self) -> None:
        """Bring every deletion as far as it goes now."""
        with transaction(self._sessions) as session:
            tenants = RemovalRepository(session).deleting()
        for tenant in tenants:
            try:
                self._remove(tenant)
            except StorageUnavailable as error:
                log.warning("a tenant could not be removed yet", tenant=tenant, error=str(error))

    def _remove(self, tenant: str) -> None:
        with transaction(self._sessions) as session:
            RemovalRepository(session).revoke_keys(tenant)
        self._each(lambda removal: removal.unfinished(tenant, BATCH), lambda job_id: self._cancel(tenant, job_id))
        self._each(
            lambda removal: removal.ended(tenant, self._after_seconds, BATCH),
            lambda job_id: self._remove_job(tenant, job_id),
        )
        self._each(
            lambda removal: removal.unread_uploads(tenant, BATCH),
            lambda upload_id: self._remove_upload(tenant, upload_id),
        )
        with transaction(self._sessions) as session:
            removed = RemovalRepository(session).finish(tenant, self._after_seconds)
        if removed:
            log.info("a tenant was removed", tenant=tenant)

    def _each(self, find: Callable[[RemovalRepository], Sequence[str]], remove: Callable[[str], None]) -> None:
        """Batch by batch, as long as there are others than in the batch before."""
        before: Sequence[str] = []
        while True:
            with transaction(self._sessions) as session:
                found = find(RemovalRepository(session))
            if not found or found == before:
                return
            for each in found:
                remove(each)
            before = found

    def _cancel(self, tenant: str, job_id: str) -> None:
        with transaction(self._sessions) as session:
            RemovalRepository(session).cancel(tenant, job_id)

    def _remove_job(self, tenant: str, job_id: str) -> None:
        self._store.delete_prefix(f"jobs/{job_id}/")
        with transaction(self._sessions) as session:
            RemovalRepository(session).forget_job(tenant, job_id)

    def _remove_upload(self, tenant: str, upload_id: str) -> None:
        self._store.delete_prefix(f"{UPLOADS}/{upload_id}/")
        with transaction(self._sessions) as session:
            RemovalRepository(session).forget_upload(tenant, upload_id)
