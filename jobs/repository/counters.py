"""Numbers that only grow, counted in the transaction of what they count: none is counted twice, or lost with a process.

A transaction adds all it has counted in one statement just before it commits, in one order for all, so that the rows
are locked as short as can be and no two wait for each other.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs.tables import Tally

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
WAITING = "tallies"
INSERT: dict[str, Callable[[type[Tally]], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}


def tally(session: Session, name: str, label: str = "", amount: float = 1) -> None:
    """Count so much more, if this transaction is committed."""
    session.info.setdefault(WAITING, Counter())[name, label] += amount


def tally_phase(session: Session, phase: str, seconds: float) -> None:
    """Count a phase that took so long."""
    bound = next(bound for bound in BOUNDS if seconds <= bound)
    tally(session, PHASE_SECONDS, phase, seconds)
    tally(session, PHASE_BUCKETS, f"{phase} {bound}")


def tallies(session: Session) -> dict[str, dict[str, float]]:
    """Everything counted so far: label to value, by name."""
    found: dict[str, dict[str, float]] = {}
    for name, label, value in session.execute(select(Tally.name, Tally.label, Tally.value)):
        found.setdefault(name, {})[label] = value
    return found


@event.listens_for(Session, "before_commit")
def _write(session: Session) -> None:
    amounts = session.info.pop(WAITING, None)
    if amounts:
        insert = INSERT[session.get_bind().dialect.name](Tally)
        rows = [{"name": name, "label": label, "value": amount} for (name, label), amount in sorted(amounts.items())]
        added = {"value": Tally.value + insert.excluded.value}
        session.execute(insert.values(rows).on_conflict_do_update(index_elements=["name", "label"], set_=added))
