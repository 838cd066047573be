"""Numbers that only grow, counted in the transaction of what they count: none is counted twice, or lost with a process.

A transaction adds all it has counted in one statement just before it commits, in one order for all, so that the rows
are locked as short as can be and no two wait for each other.
"""

import collections
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.progress import PHASES
from jobs.tables import Counter

JOBS_ENDED = "jobs_ended"
"""By state."""
LEASES_EXPIRED = "leases_expired"
"""By the state that the job went to."""
FENCED_WRITES = "fenced_writes"
"""Writes of a worker whose job was somebody else's by then, by what they would have written: `heartbeat` or `end`."""
WEBHOOK_ATTEMPTS = "webhook_attempts"
"""By outcome: `delivered` or `failed`."""
STORED_BYTES = "stored_bytes"
"""Published, of whatever has been removed since."""
PHASE_SECONDS = "phase_seconds"
"""By phase: how long phases took together."""
PHASE_BUCKETS = "phase_buckets"
"""By phase and upper bound (`measuring 60`): how many phases took so many seconds, and more than the bound below."""

BOUNDS = (1, 5, 15, 60, 300, 900, 3600, 14400, float("inf"))
PENDING = "pending_counters"
INSERT: dict[str, Callable[[type[Counter]], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def increment(session: Session, name: str, label: str = "", amount: float = 1) -> None:
    """Add `amount` to a counter when this transaction is committed."""
    session.info.setdefault(PENDING, collections.Counter())[name, label] += amount


def increment_phase(session: Session, phase: str, seconds: float) -> None:
    """Count a phase that took `seconds`; those that are none of `PHASES` count as `other`."""
    phase = phase if phase in PHASES else "other"
    bound = next(bound for bound in BOUNDS if seconds <= bound)
    increment(session, PHASE_SECONDS, phase, seconds)
    increment(session, PHASE_BUCKETS, f"{phase} {bound}")


def read_counters(session: Session) -> dict[str, dict[str, float]]:
    """Everything counted so far: label to value, by name."""
    values: dict[str, dict[str, float]] = {}
    for name, label, value in session.execute(select(Counter.name, Counter.label, Counter.value)):
        values.setdefault(name, {})[label] = value
    return values


@event.listens_for(Session, "before_commit")
def _write(session: Session) -> None:
    amounts = session.info.pop(PENDING, None)
    if amounts:
        insert = INSERT[session.get_bind().dialect.name](Counter)
        rows = [{"name": name, "label": label, "value": amount} for (name, label), amount in sorted(amounts.items())]
        added = {"value": Counter.value + insert.excluded.value}
        session.execute(insert.values(rows).on_conflict_do_update(index_elements=["name", "label"], set_=added))
