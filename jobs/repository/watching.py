"""Changes of jobs, read for all watchers at once. That the jobs are the watchers' own was checked before."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.tables import Event, Job


class JobVersion(NamedTuple):
    """Two numbers that grow as a job changes: the version of its row and the number of its last event."""

    version: int
    last_event_seq: int


class WatchRepository:
    """Jobs by id, of any tenant."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def versions(self, job_ids: Sequence[str]) -> dict[str, JobVersion]:
        """The version of each of these jobs, by id; deleted jobs are left out."""
        rows = self._session.execute(select(Job.id, Job.version, Job.last_event_seq).where(Job.id.in_(job_ids)))
        return {job_id: JobVersion(version, seq) for job_id, version, seq in rows}

    def events(self, job_id: str, after: int, limit: int) -> Sequence[Event]:
        """Up to `limit` events of a job with a number above `after`, in order."""
        chosen = select(Event).where(Event.job_id == job_id, Event.seq > after)
        return self._session.scalars(chosen.order_by(Event.seq).limit(limit)).all()
