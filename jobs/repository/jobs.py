"""What users may do with jobs and see of them. Every method takes the tenant; another tenant's job does not exist."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.orm import Session, aliased

from jobs.clock import UTCDateTime, later, now, seconds_until
from jobs.ids import new_id
from jobs.repository.quotas import check_submission, hold, is_limited, other_waiting
from jobs.repository.transitions import move
from jobs.repository.uploads import take_uploads
from jobs.spec import JobSpec
from jobs.states import TERMINAL, State
from jobs.tables import Analysis, Artifact, DeletedJob, Event, Job

UNLIMITED = 2**31 - 1
NEW = {"state": State.QUEUED, "version": 1, "last_event_seq": 1, "attempt": 0, "fence": 0}
# Of the tables and not of the classes, and made once: a submission is what the service is asked for most, and what the
# row holds is known, but for the times.
NEW_JOB = (
    insert(Job.__table__)  # type: ignore[arg-type]
    .values(**NEW, created_at=now(), not_before=now(), deadline_at=later(bindparam("deadline_seconds", type_=Float)))
    .returning(
        Job.created_at,
        Job.not_before,
        Job.deadline_at,
        is_limited(bindparam("owner")).label("limited"),
        other_waiting(bindparam("owner"), bindparam("new_id"), bindparam("max_queued", type_=Integer)).label("waiting"),
    )
)
FIRST_EVENT = insert(Event.__table__).values(seq=1, type=State.QUEUED, data={}, created_at=now())  # type: ignore[arg-type]
# SQLite has no such thing, and no round trip to save.
NEW_JOB_WITH_EVENT = NEW_JOB.add_cte(FIRST_EVENT.values(job_id=bindparam("event_of")).cte("first_event"))


BEFORE = aliased(Job)
# Of the same tenant; counted only where the job waits.
AHEAD = case(
    (
        Job.state == literal_column(f"'{State.QUEUED}'"),
        select(func.count())
        .select_from(BEFORE)
        .where(
            BEFORE.state == literal_column(f"'{State.QUEUED}'"),
            BEFORE.gpu_class == Job.gpu_class,
            BEFORE.tenant == Job.tenant,
            tuple_(BEFORE.precedence, BEFORE.id) < tuple_(Job.precedence, Job.id),
        )
        .correlate(Job)
        .scalar_subquery(),
    ),
)


class RankedJob(NamedTuple):
    """A job, and how many waiting jobs of its tenant start before it; None if it does not wait."""

    job: Job
    ahead: int | None


@dataclass(frozen=True)
class Origin:
    """Where a new job comes from: the job that it repeats, and the trace of the request that asked for it."""

    retry_of: str | None = None
    traceparent: str | None = None


class JobRepository:
    """Jobs as their tenant sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def submit(
        self,
        tenant: str,
        spec: JobSpec,
        *,
        max_attempts: int,
        max_queued: int = UNLIMITED,
        job_id: str | None = None,
        origin: Origin = Origin(),
    ) -> Job:
        """Write a new job that waits for a worker, and its first event; `max_queued` is the quota of waiting jobs of a
        tenant that has none. It is not locked for that, so of several at once each may miss the others.

        Raises `QuotaExceeded`, `TenantDeleting`, `UnusableUpload`.
        """
        job_id = job_id or new_id("job")
        written = {
            "id": job_id,
            "tenant": tenant,
            # Releases that know no priorities read what names none.
            "spec": spec.model_dump(mode="json", exclude=None if spec.priority else {"priority"}),
            "gpu_class": spec.gpu_class,
            "precedence": -spec.priority,
            "max_attempts": max_attempts,
            **vars(origin),
        }
        asked = {**written, "owner": tenant, "deadline_seconds": spec.deadline_seconds, "new_id": job_id}
        asked["max_queued"] = max_queued
        if self._session.get_bind().dialect.name == "postgresql":
            made = self._session.execute(NEW_JOB_WITH_EVENT, {**asked, "event_of": job_id}).one()
        else:
            made = self._session.execute(NEW_JOB, asked).one()
            self._session.execute(FIRST_EVENT, {"job_id": job_id})
        if made.limited:
            check_submission(self._session, tenant, max_queued)
        else:
            hold("queued_jobs", max_queued, made.waiting)
        take_uploads(self._session, tenant, job_id, spec)
        times = {"created_at": made.created_at, "not_before": made.not_before, "deadline_at": made.deadline_at}
        return Job(**written, **NEW, **times)

    def get(self, tenant: str, job_id: str) -> Job | None:
        """The job, if the tenant has one of this id."""
        return self._session.scalars(select(Job).where(*_owned(tenant, job_id))).one_or_none()

    def get_ranked(self, tenant: str, job_id: str) -> RankedJob | None:
        """The same with its rank among its tenant's."""
        row = self._session.execute(select(Job, AHEAD).where(*_owned(tenant, job_id))).one_or_none()
        return None if row is None else RankedJob(*row)

    def page(
        self,
        tenant: str,
        *,
        limit: int,
        before: str | None,
        status: State | None,
        created_after: datetime | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> Sequence[Job]:
        """Up to `limit` jobs, newest first, from those older than the job `before`; `metadata` are texts by name."""
        chosen = select(Job).where(Job.tenant == tenant).order_by(Job.id.desc()).limit(limit)
        if before is not None:
            chosen = chosen.where(Job.id < before)
        if status is not None:
            chosen = chosen.where(Job.state == status)
        if created_after is not None:
            chosen = chosen.where(Job.created_at > created_after)
        for name, value in metadata.items():
            chosen = chosen.where(Job.spec["metadata"][name].as_string() == value)
        return self._session.scalars(chosen).all()

    def cancel(self, tenant: str, job_id: str) -> Job | None:
        """Cancel a waiting job at once and ask a running one to stop; any other is returned as it is."""
        owned = _owned(tenant, job_id)
        # Locked first: between two attempts to move it, the scheduler could move the job past both.
        state = self._session.scalar(select(Job.state).where(*owned).with_for_update())
        if state == State.QUEUED:
            return move(self._session, State.CANCELLED, owned)
        if state == State.RUNNING:
            return move(self._session, State.CANCELLING, owned)
        return self.get(tenant, job_id)

    def delete(self, tenant: str, job_id: str) -> bool | None:
        """Delete a job that has ended, and note that its objects are to go; False while it has not, None without it."""
        owned = _owned(tenant, job_id)
        state = self._session.scalar(select(Job.state).where(*owned).with_for_update())
        if state is None:
            return None
        if state not in TERMINAL:
            return False
        self._session.add(DeletedJob(job_id=job_id, tenant=tenant, created_at=now()))
        self._session.execute(delete(Job).where(*owned))
        return True

    def expired(self, artifact: Artifact) -> bool:
        """Whether a published file is kept no longer."""
        return (
            bool(self._session.scalar(select(seconds_until(literal(artifact.expires_at, UTCDateTime())) <= 0)))
            if artifact.expires_at
            else False
        )

    def events(self, tenant: str, job_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """Up to `limit` events with a number above `after`, in order."""
        chosen = select(Event).join(Job).where(*_owned(tenant, job_id), Event.seq > after)
        return self._session.scalars(chosen.order_by(Event.seq).limit(limit)).all()

    def artifacts(self, tenant: str, job_id: str) -> Sequence[Artifact]:
        """The published files of a job, by name."""
        chosen = select(Artifact).join(Job).where(*_owned(tenant, job_id))
        return self._session.scalars(chosen.order_by(Artifact.name)).all()

    def artifact(self, tenant: str, job_id: str, name: str) -> Artifact | None:
        """One published file."""
        chosen = select(Artifact).join(Job).where(*_owned(tenant, job_id), Artifact.name == name)
        return self._session.scalars(chosen).one_or_none()

    def analysis(self, tenant: str, job_id: str) -> Analysis | None:
        """What the job has measured, once it has succeeded."""
        chosen = select(Analysis).join(Job).where(*_owned(tenant, job_id))
        return self._session.scalars(chosen).one_or_none()


def _owned(tenant: str, job_id: str) -> list[ColumnElement[bool]]:
    return [Job.tenant == tenant, Job.id == job_id]
