"""What those who watch jobs ask for, for all of them at once. Whose jobs they are was asked before."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.tables import Event, Job


class Standing(NamedTuple):
    """How far a job has come."""

    version: int
    last_event_seq: int


class WatchRepository:
    """Jobs by id, of any tenant."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def standings(self, job_ids: Sequence[str]) -> dict[str, Standing]:
        """How far each of these jobs has come that is still there."""
        rows = self._session.execute(select(Job.id, Job.version, Job.last_event_seq).where(Job.id.in_(job_ids)))
        return {job_id: Standing(version, seq) for job_id, version, seq in rows}

    def events(self, job_id: str, after: int, limit: int) -> Sequence[Event]:
        """Up to `limit` events of a job with a number above `after`, in order."""
        chosen = select(Event).where(Event.job_id == job_id, Event.seq > after)
        return self._session.scalars(chosen.order_by(Event.seq).limit(limit)).all()
