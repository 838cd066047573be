"""How a tenant goes: at once for whoever asks in its name, then job by job, and its own row last.

Every table with rows of tenants has its rule here: jobs go with what hangs on them, uploads with their files, webhook
endpoints with their deliveries, and `OWN` with the tenant. Audit events stay until their retention is over: they say
who did what to which id, and nothing of what was in it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.repository.administration.audit import AuditRepository
from jobs.repository.jobs import JobRepository
from jobs.repository.uploads import in_use
from jobs.states import TERMINAL, State
from jobs.tables import ApiKey, DeletedJob, IdempotencyKey, Job, Share, Tenant, Upload, WebhookEndpoint

OWN = (WebhookEndpoint, IdempotencyKey, Share, ApiKey)
REMOVED = "tenant removed"


@dataclass(frozen=True)
class Left:
    """What a tenant still has: jobs that have not ended and that have, deleted jobs whose objects are still in the
    artifact store, and uploads.
    """

    unfinished_jobs: int
    ended_jobs: int
    deleted_jobs: int
    uploads: int


class RemovalRepository:
    """Every method may run any number of times and in any number of processes at once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def begin(self, tenant: str) -> bool:
        """Let nobody act for the tenant any more; False where there is none of this name."""
        began = update(Tenant).where(Tenant.name == tenant).values(deleting_at=func.coalesce(Tenant.deleting_at, now()))
        found = self._session.scalar(began.returning(Tenant.name).execution_options(synchronize_session="fetch"))
        self.revoke_keys(tenant)
        return found is not None

    def revoke_keys(self, tenant: str) -> None:
        """Once more in every round: a key may have been made while the deletion began."""
        mine = (ApiKey.tenant == tenant, ApiKey.revoked_at.is_(None))
        changed = update(ApiKey).where(*mine).values(revoked_at=now())
        self._session.execute(changed.execution_options(synchronize_session=False))

    def deleting(self) -> Sequence[str]:
        """The tenants that are being deleted, longest first."""
        chosen = select(Tenant.name).where(Tenant.deleting_at.is_not(None))
        return self._session.scalars(chosen.order_by(Tenant.deleting_at)).all()

    def left(self, tenant: str) -> Left:
        """What there still is of a tenant."""
        mine = Job.tenant == tenant
        counted = (
            select(func.count()).where(mine, Job.state.not_in(TERMINAL)),
            select(func.count()).where(mine, Job.state.in_(TERMINAL)),
            select(func.count()).where(DeletedJob.tenant == tenant),
            select(func.count()).where(Upload.tenant == tenant),
        )
        return Left(*self._session.execute(select(*(each.scalar_subquery() for each in counted))).one())

    def unfinished(self, tenant: str, limit: int) -> Sequence[str]:
        """Jobs that wait, or run and were not asked to stop."""
        chosen = select(Job.id).where(Job.tenant == tenant, Job.state.in_({State.QUEUED, State.RUNNING}))
        return self._session.scalars(chosen.order_by(Job.id).limit(limit)).all()

    def cancel(self, tenant: str, job_id: str) -> None:
        """Cancel a job, or ask it to stop."""
        JobRepository(self._session).cancel(tenant, job_id)

    def ended(self, tenant: str, after_seconds: float, limit: int) -> Sequence[str]:
        """Jobs that no attempt can still be uploading objects of: those that ended so long ago or never began."""
        over = or_(Job.finished_at <= later(-after_seconds), Job.fence == 0)
        chosen = select(Job.id).where(Job.tenant == tenant, Job.state.in_(TERMINAL), over)
        return self._session.scalars(chosen.order_by(Job.id).limit(limit)).all()

    def forget_job(self, tenant: str, job_id: str) -> None:
        """Delete the row of a job whose objects are gone, with all that hangs on it."""
        self._session.execute(delete(Job).where(Job.tenant == tenant, Job.id == job_id, Job.state.in_(TERMINAL)))

    def unread_uploads(self, tenant: str, limit: int) -> Sequence[str]:
        """Uploads that no job reads which has not ended."""
        chosen = select(Upload.id).where(Upload.tenant == tenant, ~in_use())
        return self._session.scalars(chosen.order_by(Upload.id).limit(limit)).all()

    def forget_upload(self, tenant: str, upload_id: str) -> None:
        """Delete the row of an upload whose objects are gone."""
        self._session.execute(delete(Upload).where(Upload.tenant == tenant, Upload.id == upload_id, ~in_use()))

    def finish(self, tenant: str, after_seconds: float) -> bool:
        """Delete the tenant's own row and what has no objects, where nothing else is left of it and no request can
        still be at work that was let in before; whether it was this call that did.
        """
        chosen = select(Tenant).where(Tenant.name == tenant, Tenant.deleting_at <= later(-after_seconds))
        row = self._session.scalar(chosen.with_for_update(skip_locked=True))
        if row is None or self.left(tenant) != Left(0, 0, 0, 0):
            return False
        for table in OWN:
            self._session.execute(delete(table).where(table.tenant == tenant))
        self._session.delete(row)
        AuditRepository(self._session).record(
            tenant, REMOVED, key_id=None, subject=tenant, address=None, request_id=None
        )
        return True

    def departed(self, names: Collection[str]) -> set[str]:
        """Those of these names that are no tenant's: there is neither a row, nor a job of a service without keys."""
        there = set(self._session.scalars(select(Tenant.name).where(Tenant.name.in_(names))))
        return {
            name for name in set(names) - there if not self._session.scalar(select(exists().where(Job.tenant == name)))
        }
