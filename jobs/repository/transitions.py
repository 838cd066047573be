"""The one way a job's row changes: a guarded UPDATE that also numbers the events it causes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.orm import Session

from jobs.clock import later, now, seconds_until
from jobs.errors import JobError
from jobs.events import EventData, NewEvent, NoData, Requeued, RequeueReason
from jobs.repository.counters import JOBS_ENDED, increment
from jobs.repository.queue.fair_queue import count_attempt
from jobs.repository.webhooks.deliveries import write_deliveries
from jobs.states import HELD, TERMINAL, State, sources
from jobs.tables import Event, Job

NOT_HELD = {
    "lease_until": None,
    "worker": None,
    "claimed_at": None,
    "attempt_seconds": -seconds_until(Job.claimed_at),
}


def change(
    session: Session, guards: Iterable[ColumnElement[bool]], values: Mapping[str, object], events: Sequence[NewEvent]
) -> Job | None:
    """Change the one job that fulfils all guards, as one visible version. None, and nothing written, if none does."""
    statement = (
        update(Job)
        .where(*guards)
        .values(version=Job.version + 1, last_event_seq=Job.last_event_seq + len(events), **values)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    job = session.scalars(statement).one_or_none()
    if job is not None:
        first = job.last_event_seq - len(events) + 1
        session.add_all(
            Event(
                job_id=job.id, seq=first + i, type=event.type, data=event.data.model_dump(mode="json"), created_at=now()
            )
            for i, event in enumerate(events)
        )
        session.flush()
    return job


def move(
    session: Session, to: State, guards: Iterable[ColumnElement[bool]], data: EventData = NoData(), **values: Any
) -> Job | None:
    """Move a job from any state that may lead to this one, with an event of the same name. None where it cannot."""
    values |= {"state": to}
    if to not in HELD:
        values |= NOT_HELD
    if to in TERMINAL:
        values |= {"finished_at": now()}
    job = change(session, [Job.state.in_(sources(to)), *guards], values, [NewEvent(to.value, data)])
    if job is not None and to in TERMINAL:
        count_attempt(session, job)
        increment(session, JOBS_ENDED, to)
        write_deliveries(session, job.tenant, job.id, f"job.{to}")
        session.flush()
    return job


def requeue(
    session: Session,
    guards: Iterable[ColumnElement[bool]],
    reason: RequeueReason,
    wait_seconds: float,
    attempt: int | ColumnElement[int],
) -> Job | None:
    """Move a running job back to the queue, with a new fence, so that the old holder can write nothing more."""
    values = {
        **NOT_HELD,
        "state": State.QUEUED,
        "phase": None,
        "progress": None,
        "fence": Job.fence + 1,
        "attempt": attempt,
        "not_before": later(wait_seconds),
    }
    guards = [Job.state.in_(sources(State.QUEUED)), *guards]
    job = change(session, guards, values, [NewEvent("requeued", Requeued(reason=reason))])
    if job is not None:
        count_attempt(session, job)
    return job


def fail(session: Session, guards: Iterable[ColumnElement[bool]], error: JobError) -> Job | None:
    """To `failed`, with the error in the row and in the event."""
    return move(session, State.FAILED, guards, error, error=error.model_dump(mode="json"))
