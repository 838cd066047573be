"""One reader for everybody who waits for jobs to change: one query a round, whoever and however many they are."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from api.events.frames import EventFrame
from jobs.database import DATABASE_DOWN, transaction
from jobs.repository import JobVersion, WatchRepository

ROUND_SECONDS = 0.5
# A watcher who is further behind gets the rest in the next round.
MOST_EVENTS = 500

log = structlog.get_logger(__name__)


@dataclass(eq=False)
class _Waiter:
    """`after` is the last event that a watcher of events has seen; None for one who asks only whether."""

    job_id: str
    wakes: Callable[[JobVersion | None], bool]
    after: int | None = None
    events: Sequence[EventFrame] = ()
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class JobWatcher:
    """Tells of a change within a round and a query. Lives on one event loop; nobody holds a thread or a connection
    while waiting.
    """

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions
        self._waiting: set[_Waiter] = set()
        self._reading: asyncio.Task[None] | None = None
        self.closing = False

    async def changed(self, job_id: str, version: int, seconds: float) -> None:
        """Return once the job has another version or is gone, or the time is over."""
        await self._wait(_Waiter(job_id, lambda now: now is None or now.version != version), seconds)

    async def events(self, job_id: str, after: int, seconds: float) -> Sequence[EventFrame] | None:
        """The events with numbers above `after`, once there are any; none when the time is over, and None for a job
        that is gone.
        """
        waiter = _Waiter(job_id, lambda now: now is None or now.last_event_seq > after, after)
        woken = await self._wait(waiter, seconds)
        return None if woken and not waiter.events else waiter.events

    def close(self) -> None:
        """Let nobody wait any longer."""
        self.closing = True
        for waiter in self._waiting:
            waiter.changed.set()

    async def _wait(self, waiter: _Waiter, seconds: float) -> bool:
        """Whether the job has changed."""
        if self.closing:
            return False
        self._waiting.add(waiter)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        try:
            async with asyncio.timeout(seconds):
                await waiter.changed.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(waiter)
        return not self.closing

    async def _read(self) -> None:
        while self._waiting and not self.closing:
            try:
                woken = await run_in_threadpool(self._look, tuple(self._waiting))
            except DATABASE_DOWN as error:
                log.warning("jobs cannot be watched", error=str(error))
                woken = ()
            for waiter in woken:
                waiter.changed.set()
            await asyncio.sleep(ROUND_SECONDS)

    def _look(self, waiting: Sequence[_Waiter]) -> Collection[_Waiter]:
        with transaction(self._sessions) as session:
            watch = WatchRepository(session)
            versions = watch.versions(list({waiter.job_id for waiter in waiting}))
            woken = [waiter for waiter in waiting if waiter.wakes(versions.get(waiter.job_id))]
            behind: dict[str, int] = {}
            for waiter in woken:
                if waiter.after is not None:
                    behind[waiter.job_id] = min(waiter.after, behind.get(waiter.job_id, waiter.after))
            events = {
                job_id: [EventFrame.of(event) for event in watch.events(job_id, after, MOST_EVENTS)]
                for job_id, after in behind.items()
            }
        for waiter in woken:
            if waiter.after is not None:
                # A job's events are numbered from 1 without gaps; one who is ahead of these waits for the next round.
                waiter.events = [event for event in events[waiter.job_id] if event.seq > waiter.after]
        return [w for w in woken if w.after is None or w.events or w.job_id not in versions]
