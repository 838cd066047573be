"""The quotas that the jobs of a tenant are held to; a tenant that is being deleted gets no more of anything.

A check locks its tenant's row, so that of any number of requests at once no two count the same free place. Most tenants
have no quotas, so a submission asks for them in the statement that writes the job, and locks only where there are any.
"""

from sqlalchemy import BindParameter, Exists, ScalarSelect, Select, bindparam, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from jobs.states import HELD, State
from jobs.tables import Artifact, Job, Tenant, Upload, UploadFile

# Only a tenant that has such quotas is locked. Keys that are made meanwhile refer to its row, and need not wait.
HAS_LIMITS = or_(Tenant.queued_jobs.is_not(None), Tenant.stored_bytes.is_not(None), Tenant.deleting_at.is_not(None))
LIMITS = (
    select(Tenant.queued_jobs, Tenant.stored_bytes, Tenant.deleting_at)
    .where(Tenant.name == bindparam("tenant"), HAS_LIMITS)
    .with_for_update(key_share=True)
)


class TenantDeleting(Exception):
    """The tenant is being deleted."""

    def __init__(self, tenant: str) -> None:
        super().__init__(f"the tenant {tenant} is being deleted")


class QuotaExceeded(Exception):
    """A tenant has as much of `quota` as its `limit` allows; `use` is what it has."""

    def __init__(self, quota: str, limit: int, use: int) -> None:
        self.quota, self.limit, self.use = quota, limit, use
        super().__init__(f"the quota {quota} of {limit} is used up: {use}")


def is_limited(tenant: BindParameter[str]) -> Exists:
    """Whether `check_submission` has anything to check."""
    return exists().where(Tenant.name == tenant, HAS_LIMITS)


def other_waiting(
    tenant: BindParameter[str], job_id: BindParameter[str], most: BindParameter[int]
) -> ScalarSelect[int]:
    """How many jobs of the tenant wait beside this one, counted up to `most`."""
    other = aliased(Job)
    waiting = select(other.id).where(other.tenant == tenant, other.state == State.QUEUED, other.id != job_id)
    return select(func.count()).select_from(waiting.limit(most).subquery()).scalar_subquery()


def check_submission(session: Session, tenant: str, max_queued: int) -> None:
    """Raises `QuotaExceeded` where the waiting jobs of the tenant, the one just written included, are more than its
    quota or else `max_queued`, or it has stored enough. Raises `TenantDeleting`.
    """
    row = session.execute(LIMITS, {"tenant": tenant}).one_or_none()
    if row is None:
        return
    if row.deleting_at is not None:
        raise TenantDeleting(tenant)
    waiting = select(func.count()).select_from(Job).where(Job.tenant == tenant, Job.state == State.QUEUED)
    most = max_queued if row.queued_jobs is None else row.queued_jobs
    hold("queued_jobs", most, (session.scalar(waiting) or 0) - 1)
    if row.stored_bytes is not None:
        hold("stored_bytes", row.stored_bytes, _stored_bytes(session, tenant))


def hold(quota: str, limit: int, use: int) -> None:
    """Raises `QuotaExceeded` where there is no room for one more."""
    if use >= limit:
        raise QuotaExceeded(quota, limit, use)


def check_stored_bytes(session: Session, tenant: str, more_bytes: int) -> None:
    """Raises `QuotaExceeded` where so many bytes more would be more than the tenant may store. Raises
    `TenantDeleting`.
    """
    row = session.execute(LIMITS, {"tenant": tenant}).one_or_none()
    if row is not None and row.deleting_at is not None:
        raise TenantDeleting(tenant)
    if row is None or row.stored_bytes is None:
        return
    use = _stored_bytes(session, tenant)
    if use + more_bytes > row.stored_bytes:
        raise QuotaExceeded("stored_bytes", row.stored_bytes, use)


def may_run(session: Session, job_id: str) -> bool:
    """Whether the job's tenant may have one more job running."""
    owner = select(Job.tenant).where(Job.id == job_id).scalar_subquery()
    limited = select(Tenant).where(Tenant.name == owner, Tenant.running_jobs.is_not(None))
    row = session.scalar(limited.with_for_update(key_share=True).execution_options(populate_existing=True))
    return (
        row is None or row.running_jobs is None or (session.scalar(select(_running(row.name))) or 0) < row.running_jobs
    )


def tenants_at_running_quota() -> Select[str]:
    """Names of the tenants that may have no more jobs running now."""
    return select(Tenant.name).where(Tenant.running_jobs <= _running(Tenant.name))


def _stored_bytes(session: Session, tenant: str) -> int:
    """The bytes of artifacts and of uploads, those that are still on their way included."""
    kept = (Job.tenant == tenant, Artifact.removed_at.is_(None))
    published = session.scalar(select(func.sum(Artifact.size_bytes)).join(Job).where(*kept))
    uploaded = session.scalar(select(func.sum(UploadFile.size_bytes)).join(Upload).where(Upload.tenant == tenant))
    return int(published or 0) + int(uploaded or 0)


def _running(tenant: object) -> ScalarSelect[int]:
    held = aliased(Job)
    counted = select(func.count()).select_from(held).where(held.tenant == tenant, held.state.in_(HELD))
    return counted.scalar_subquery()
