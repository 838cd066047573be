"""Tenants, and the quotas that their jobs are held to.

A check locks its tenant's row, so that of any number of requests at once no two count the same free place. Most tenants
have no quotas, so a submission asks for them in the statement that writes the job, and locks only where there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BindParameter, Exists, ScalarSelect, Select, bindparam, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from jobs.clock import now
from jobs.states import HELD, State
from jobs.tables import Artifact, Job, Tenant, Upload, UploadFile

# Only a tenant that has such quotas is locked. Keys that are made meanwhile refer to its row, and need not wait.
HAS_LIMITS = or_(Tenant.queued_jobs.is_not(None), Tenant.stored_bytes.is_not(None))
LIMITS = (
    select(Tenant.queued_jobs, Tenant.stored_bytes)
    .where(Tenant.name == bindparam("tenant"), HAS_LIMITS)
    .with_for_update(key_share=True)
)


class QuotaExceeded(Exception):
    """A tenant has as much of `quota` as its `limit` allows; `use` is what it has."""

    def __init__(self, quota: str, limit: int, use: int) -> None:
        self.quota, self.limit, self.use = quota, limit, use
        super().__init__(f"the quota {quota} of {limit} is used up: {use}")


@dataclass(frozen=True)
class Quotas:
    """How much a tenant may have at a time, None does not limit; and of workers that others want too, its share by
    `weight`.
    """

    queued_jobs: int | None = None
    running_jobs: int | None = None
    stored_bytes: int | None = None
    weight: float = 1.0


class TenantRepository:
    """All tenants; only administrators come here."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def create(self, name: str, quotas: Quotas) -> Tenant | None:
        """A new tenant; None where the name is taken."""
        tenant = Tenant(name=name, created_at=now(), **vars(quotas))
        try:
            with self._session.begin_nested():
                self._session.add(tenant)
        except IntegrityError:
            return None
        self._session.refresh(tenant)
        return tenant

    def ensure(self, name: str) -> None:
        """Make the tenant where there is none of this name."""
        self.create(name, Quotas())

    def get(self, name: str) -> Tenant | None:
        """The tenant of this name."""
        return self._session.get(Tenant, name)

    def page(self, *, limit: int, after: str | None) -> Sequence[Tenant]:
        """Up to `limit` tenants by name, from those behind the name `after`."""
        chosen = select(Tenant).order_by(Tenant.name).limit(limit)
        return self._session.scalars(chosen if after is None else chosen.where(Tenant.name > after)).all()

    def set_quotas(self, name: str, quotas: Quotas) -> Tenant | None:
        """Replace all quotas of a tenant; jobs that it already has stay. None where there is no such tenant."""
        changed = update(Tenant).where(Tenant.name == name).values(**vars(quotas)).returning(Tenant)
        return self._session.scalars(changed.execution_options(populate_existing=True)).one_or_none()


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
    quota or else `max_queued`, or it has stored enough.
    """
    row = session.execute(LIMITS, {"tenant": tenant}).one_or_none()
    if row is None:
        return
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
    """Raises `QuotaExceeded` where so many bytes more would be more than the tenant may store."""
    row = session.execute(LIMITS, {"tenant": tenant}).one_or_none()
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
