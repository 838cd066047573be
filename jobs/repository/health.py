"""What the parts of the service say of themselves, and what that makes of the whole."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.clock import now, seconds_until
from jobs.ids import new_id
from jobs.tables import Health

SILENT_SECONDS = 30
JOB_BYTES = 32 * 1024
# Always heard of, or in trouble.
SCHEDULER, BROKER = "scheduler", "broker"
# Heard of only while a worker is in trouble.
STORE, CONFINEMENT = "artifact store", "confinement"


class HealthRepository:
    """One row a part."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(self, part: str, trouble: str | None) -> None:
        """Store that a part works (`trouble` is None), or what is wrong with it."""
        self._session.merge(Health(part=part, trouble=trouble, seen_at=now()))

    def require_room(self) -> None:
        """Write what a job may take, and take it away: raises what a submission would where nothing can be written.

        That is known once the transaction is committed. One that were rolled back would not reach the disk.
        """
        row = Health(part=new_id("probe"), trouble="x" * JOB_BYTES, seen_at=now())
        self._session.add(row)
        self._session.flush()
        self._session.delete(row)
        self._session.flush()

    def troubles(self) -> dict[str, str]:
        """What is wrong, by part; a scheduler or broker not heard of for `SILENT_SECONDS` is in trouble, too."""
        rows = self._session.execute(select(Health.part, Health.trouble, seconds_until(Health.seen_at))).all()
        heard = {part: trouble if age > -SILENT_SECONDS else _silence(age) for part, trouble, age in rows}
        parts = {part: heard.get(part, "was never heard of") for part in (SCHEDULER, BROKER)}
        parts |= {part: trouble for part, trouble, age in rows if part not in parts and age > -SILENT_SECONDS}
        return {part: trouble for part, trouble in parts.items() if trouble}


def _silence(age: float) -> str:
    return f"was not heard of for {-age:.0f} s"
