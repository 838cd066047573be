"""Where a waiting job stands: how many jobs start before it, and after how long it starts itself.

Worked out from the order of turns (`fair_queue.py`) as if nothing more was submitted and every attempt took as long as
its tenant's attempts usually take.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from jobs.repository.queue.fair_queue import CLASS, WAITING, Standing, standings
from jobs.tables import Job

WAITING_BY_TENANT = select(Job.tenant, func.count()).where(*WAITING).group_by(Job.tenant)


class Place(NamedTuple):
    """`position` counts from 1; the seconds are None where nothing runs or has run that they could be known from."""

    position: int
    expected_start_seconds: int | None


@dataclass(frozen=True)
class Outlook:
    """A GPU class at one moment: its tenants in the order of their turns, and how many jobs of each wait."""

    standings: Sequence[Standing]
    waiting: Mapping[str, int]

    @classmethod
    def read(cls, session: Session, gpu_class: str) -> "Outlook":
        waiting = session.execute(WAITING_BY_TENANT, {CLASS.key: gpu_class}).tuples().all()
        return cls(standings(session, gpu_class), dict(waiting))

    def place(self, tenant: str, ahead: int) -> Place | None:
        """The place of a job that has `ahead` of its tenant's before it; None if its tenant was not there yet."""
        rank = next((i for i, each in enumerate(self.standings) if each.tenant == tenant), None)
        if rank is None:
            return None
        mine = self.standings[rank]
        start = mine.start + ahead * mine.estimate / mine.weight
        before = ahead
        seconds = (ahead + 1) * mine.estimate
        for i, other in enumerate(self.standings):
            if i != rank and other.head is not None:
                jobs = min(self.waiting.get(other.tenant, 0), _started_by(other, start, is_first=i < rank))
                before += jobs
                seconds += jobs * other.estimate
        workers = sum(each.running for each in self.standings)
        is_known = mine.is_known and mine.head is not None and workers > 0
        return Place(before + 1, math.ceil(seconds / workers) if is_known else None)


def _started_by(other: Standing, start: float, *, is_first: bool) -> int:
    """How many jobs of this tenant start before the virtual time `start`, or at it if the tenant `is_first` then."""
    jobs = (start - other.start) * other.weight / other.estimate
    return max(0, math.floor(jobs) + 1 if is_first else math.ceil(jobs))
