"""The worker's hold on one claimed job: renewed by heartbeats that carry the news, and lost when they fail too long."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import DATABASE_DOWN, transaction
from jobs.events import NewEvent, PhaseStarted
from jobs.repository import Claim, ClaimRepository, News
from jobs.results import Progress
from jobs.states import State

BEATS_PER_LEASE = 4
SECONDS_BETWEEN_NEWS = 1.0

log = structlog.get_logger(__name__)


class Stop(Enum):
    """Why a running job must not go on."""

    LOST = "the lease is somebody else's"
    CANCELLED = "the user cancelled"
    DEADLINE = "the deadline has passed"


class Lease:
    """A claim kept alive. `stop` says when to give up; `write` ends the job, once, if it is still ours."""

    def __init__(self, sessions: sessionmaker[Session], claim: Claim, lease_seconds: float) -> None:
        self.claim = claim
        self.phase: str | None = None
        self.facts: dict[str, dict[str, Any]] = {}
        self._sessions = sessions
        self._lease_seconds = lease_seconds
        now = time.monotonic()
        self._deadline = now + claim.seconds_left
        self._held_until = now + lease_seconds
        self._beat_at = now + lease_seconds / BEATS_PER_LEASE
        self._news_at = now
        self._phase_started = now
        self._stopped: Stop | None = None
        self._progress: Progress | None = None
        self._ended_phases: list[tuple[str, float]] = []
        self._events: list[NewEvent] = []
        self._new_facts: dict[str, dict[str, Any]] = {}

    @property
    def stop(self) -> Stop | None:
        """Why to give up, if there is a reason; a lost lease is worse than a cancel, a cancel than the deadline."""
        now = time.monotonic()
        if now >= self._held_until:
            self._stopped = Stop.LOST
        if self._stopped is None and now >= self._deadline:
            return Stop.DEADLINE
        return self._stopped

    def tell_progress(self, phase: str, done: int, total: int, unit: str) -> None:
        """Note how far the job is; a change of phase is an event, the rest only updates the row."""
        now = time.monotonic()
        if phase != self.phase:
            self._end_phase(now)
            self.phase, self._phase_started = phase, now
            self._events.append(NewEvent("phase", PhaseStarted(phase=phase)))
        elapsed = now - self._phase_started
        eta_seconds = round(elapsed * (total - done) / done) if done else None
        self._progress = Progress(done=done, total=total, unit=unit, eta_seconds=eta_seconds)

    def tell_fact(self, name: str, fact: dict[str, Any]) -> None:
        """Note what the job has found out: `resolved` or `plan`."""
        self.facts[name] = self._new_facts[name] = fact

    def renew(self, *, at_once: bool = False) -> None:
        """Send a heartbeat if one is due or there is news. A database that is down is only lost at the lease's end."""
        if self._stopped is Stop.LOST:
            # Renewed now, it would only keep the job from other workers.
            return
        now = time.monotonic()
        has_news = self._progress is not None or self._events or self._new_facts
        if not at_once and now < self._beat_at and not (has_news and now >= self._news_at):
            return
        self._news_at = now + SECONDS_BETWEEN_NEWS
        try:
            with transaction(self._sessions) as session:
                claims = ClaimRepository(session)
                news = News(self.phase, self._progress, self._events, **self._new_facts)
                state = claims.heartbeat(self.claim.job_id, self.claim.fence, news, lease_seconds=self._lease_seconds)
                if state is None:
                    claims.tell_fenced("heartbeat")
                else:
                    claims.tell_phases(self._ended_phases)
        except DATABASE_DOWN as error:
            log.warning("a heartbeat failed", error=str(error))
            self._beat_at = self._news_at
            return
        self._beat_at = now + self._lease_seconds / BEATS_PER_LEASE
        self._held_until = now + self._lease_seconds
        self._progress, self._events, self._new_facts, self._ended_phases = None, [], {}, []
        if state is None:
            self._stopped = Stop.LOST
        elif state == State.CANCELLING:
            self._stopped = Stop.CANCELLED

    def write(self, ending: Callable[[ClaimRepository], bool]) -> None:
        """Write how the job ended. While the database is down it is tried again for the length of a lease: the fence
        keeps a late write from doing harm, and after that the scheduler has given the job to another worker."""
        now = time.monotonic()
        self._end_phase(now)
        give_up = now + self._lease_seconds
        while True:
            try:
                with transaction(self._sessions) as session:
                    claims = ClaimRepository(session)
                    written = ending(claims)
                    if written:
                        claims.tell_phases(self._ended_phases)
                    else:
                        claims.tell_fenced("end")
            except DATABASE_DOWN as error:
                log.warning("the end could not be written", error=str(error))
                if time.monotonic() >= give_up:
                    return
                time.sleep(SECONDS_BETWEEN_NEWS)
            else:
                if not written:
                    log.warning("the job was not ours any more; nothing was written")
                return

    def _end_phase(self, now: float) -> None:
        if self.phase is not None:
            self._ended_phases.append((self.phase, now - self._phase_started))
