"""Whether the service can take jobs, and what is wrong with its parts."""

from anyio import CapacityLimiter, fail_after, to_thread
from sqlalchemy.exc import TimeoutError as DatabaseTimeout
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import HealthRepository

# Shorter than those who ask usually wait.
READY_SECONDS = 3


async def read_troubles(sessions: sessionmaker[Session]) -> dict[str, str]:
    """What is wrong, by part. Raises an error of `DATABASE_DOWN` where jobs cannot be taken."""

    def look() -> dict[str, str]:
        with transaction(sessions) as session:
            health = HealthRepository(session)
            health.require_room()
            return health.troubles()

    try:
        with fail_after(READY_SECONDS):
            # Not on a thread of those that requests share, which may all be waiting.
            return await to_thread.run_sync(look, abandon_on_cancel=True, limiter=CapacityLimiter(1))
    except TimeoutError as error:
        raise DatabaseTimeout(f"nothing came for {READY_SECONDS} s") from error
