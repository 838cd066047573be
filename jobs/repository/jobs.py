"""What users may do with jobs and see of them. Every method takes the tenant; another tenant's job does not exist."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session
from ulid import ULID

from jobs.clock import later, now
from jobs.repository.moves import move
from jobs.repository.tenants import check_submission
from jobs.spec import JobSpec
from jobs.states import State
from jobs.tables import Analysis, Artifact, Event, Job


class JobRepository:
    """Jobs as their tenant sees them."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def submit(self, tenant: str, spec: JobSpec, *, max_attempts: int) -> Job:
        """Write a new job that waits for a worker, and its first event. Raises `QuotaExceeded`."""
        check_submission(self._session, tenant)
        job = Job(
            id=f"job_{str(ULID()).lower()}",
            tenant=tenant,
            state=State.QUEUED,
            spec=spec.model_dump(mode="json"),
            gpu_class=spec.gpu_class,
            created_at=now(),
            not_before=now(),
            deadline_at=later(spec.deadline_seconds),
            version=1,
            last_event_seq=1,
            attempt=0,
            max_attempts=max_attempts,
            fence=0,
        )
        self._session.add(job)
        self._session.flush()
        self._session.add(Event(job_id=job.id, seq=1, type=State.QUEUED, data={}, created_at=now()))
        self._session.flush()
        self._session.refresh(job)
        return job

    def get(self, tenant: str, job_id: str) -> Job | None:
        """The job, if the tenant has one of this id."""
        return self._session.scalars(select(Job).where(*_owned(tenant, job_id))).one_or_none()

    def page(self, tenant: str, *, limit: int, before: str | None, status: State | None) -> Sequence[Job]:
        """Up to `limit` jobs, newest first, from those older than the job `before`."""
        chosen = select(Job).where(Job.tenant == tenant).order_by(Job.id.desc()).limit(limit)
        if before is not None:
            chosen = chosen.where(Job.id < before)
        if status is not None:
            chosen = chosen.where(Job.state == status)
        return self._session.scalars(chosen).all()

    def cancel(self, tenant: str, job_id: str) -> Job | None:
        """Cancel a waiting job at once and ask a running one to stop; any other is returned as it is."""
        owned = _owned(tenant, job_id)
        # Locked first: between two attempts to move it, the scheduler could move the job past both.
        state = self._session.scalar(select(Job.state).where(*owned).with_for_update())
        if state == State.QUEUED:
            return move(self._session, State.CANCELLED, owned, {})
        if state == State.RUNNING:
            return move(self._session, State.CANCELLING, owned, {})
        return self.get(tenant, job_id)

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
