"""Whose a key is, looked up in the database at most once a second."""

from functools import lru_cache, partial

from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from api.service.shared import Shared
from jobs.database import transaction
from jobs.repository import Caller, KeyRepository
from jobs.security.api_keys import Presented

# A key that is revoked is still let in for as long.
KNOWN_SECONDS = 1.0
# The least recently used are forgotten, so made-up keys fill no memory.
MOST_KEYS = 4096


class KnownKeys:
    """The callers of an API process, by their keys. Lives on one event loop."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._of = lru_cache(MOST_KEYS)(self._shared)

    async def caller(self, presented: Presented) -> Caller | None:
        """Whose key it is; None where it did not hold when it was looked up, at most `KNOWN_SECONDS` ago.

        Raises what the database raises.
        """
        return await self._of(presented).get()

    def _shared(self, presented: Presented) -> Shared[Caller | None]:
        return Shared(partial(run_in_threadpool, self._look_up, presented), KNOWN_SECONDS)

    def _look_up(self, presented: Presented) -> Caller | None:
        with transaction(self._sessions) as session:
            return KeyRepository(session).check(presented)
