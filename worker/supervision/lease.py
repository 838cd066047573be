"""The worker's lease on one claimed job. Heartbeats renew it and write progress; it is lost when they fail too long."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Literal

import structlog
from sqlalchemy.orm import Session, sessionmaker
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs.database import DATABASE_DOWN, transaction
from jobs.events import Judged, NewEvent, PhaseStarted
from jobs.progress import Progress
from jobs.repository import Claim, ClaimRepository, JobUpdate
from jobs.states import State
from jobs.tables import JsonObject
from worker.supervision.messages import ChildMisbehaved

BEATS_PER_LEASE = 4
SECONDS_BETWEEN_UPDATES = 1.0
# Of one attempt; a long healing has hundreds.
MOST_EVENTS = 10_000

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
        self.facts: dict[str, JsonObject] = {}
        self._sessions = sessions
        self._lease_seconds = lease_seconds
        now = time.monotonic()
        self._deadline = now + claim.seconds_left
        self._held_until = now + lease_seconds
        self._beat_at = now + lease_seconds / BEATS_PER_LEASE
        self._update_at = now
        self._phase_started = now
        self._stopped: Stop | None = None
        self._progress: Progress | None = None
        self._ended_phases: list[tuple[str, float]] = []
        self._events: list[NewEvent] = []
        self._event_count = 0
        self._new_facts: dict[str, JsonObject] = {}

    @property
    def stop(self) -> Stop | None:
        """Why to give up, if there is a reason; a lost lease is worse than a cancel, a cancel than the deadline."""
        now = time.monotonic()
        if now >= self._held_until:
            self._stopped = Stop.LOST
        if self._stopped is None and now >= self._deadline:
            return Stop.DEADLINE
        return self._stopped

    def record_progress(self, phase: str, done: int, total: int, unit: str) -> None:
        """Keep the progress for the next heartbeat; a new phase is also an event, all else only updates the row."""
        now = time.monotonic()
        if phase != self.phase:
            self._end_phase(now)
            self.phase, self._phase_started = phase, now
            self._add_event(NewEvent("phase", PhaseStarted(phase=phase)))
        elapsed = now - self._phase_started
        eta_seconds = round(elapsed * (total - done) / done) if done else None
        self._progress = Progress(done=done, total=total, unit=unit, eta_seconds=eta_seconds)

    def record_fact(self, name: Literal["resolved", "plan"], fact: JsonObject) -> None:
        """Keep a fact for the next heartbeat: `resolved` or `plan`."""
        self.facts[name] = self._new_facts[name] = fact

    def record_judgement(self, judged: Judged) -> None:
        """Keep what held-out samples say of the model that is healed, as an event, for the next heartbeat."""
        self._add_event(NewEvent("judged", judged))

    def renew(self, *, at_once: bool = False) -> None:
        """Send a heartbeat if one is due or something has changed. It is retried until the lease runs out."""
        if self._stopped is Stop.LOST:
            # Renewing it now would only keep other workers from the job.
            return
        now = time.monotonic()
        has_update = self._progress is not None or self._events or self._new_facts
        if not at_once and now < self._beat_at and not (has_update and now >= self._update_at):
            return
        self._update_at = now + SECONDS_BETWEEN_UPDATES
        try:
            with transaction(self._sessions) as session:
                claims = ClaimRepository(session)
                update = JobUpdate(self.phase, self._progress, self._events, **self._new_facts)
                state = claims.heartbeat(self.claim.job_id, self.claim.fence, update, lease_seconds=self._lease_seconds)
                if state is None:
                    claims.count_fenced_write("heartbeat")
                else:
                    claims.count_phases(self._ended_phases)
        except DATABASE_DOWN as error:
            log.warning("a heartbeat failed", error=str(error))
            self._beat_at = self._update_at
            return
        self._beat_at = now + self._lease_seconds / BEATS_PER_LEASE
        self._held_until = now + self._lease_seconds
        self._progress, self._events, self._new_facts, self._ended_phases = None, [], {}, []
        if state is None:
            self._stopped = Stop.LOST
        elif state == State.CANCELLING:
            self._stopped = Stop.CANCELLED

    def write(self, ending: Callable[[ClaimRepository], bool]) -> None:
        """Write how the job ended. While the database is down this is retried for the length of a lease: the fence
        keeps a late write from doing harm, and after that the scheduler gives the job to another worker.
        """
        self._end_phase(time.monotonic())
        written = Retrying(
            retry=retry_if_exception_type(DATABASE_DOWN),
            stop=stop_after_delay(self._lease_seconds),
            wait=wait_fixed(SECONDS_BETWEEN_UPDATES),
            after=_log_failed_write,
            retry_error_callback=lambda _state: None,
        )(self._write, ending)
        if written is False:
            log.warning("the job was not ours any more; nothing was written")

    def _write(self, ending: Callable[[ClaimRepository], bool]) -> bool | None:
        with transaction(self._sessions) as session:
            claims = ClaimRepository(session)
            written = ending(claims)
            if written:
                claims.count_phases(self._ended_phases)
            else:
                claims.count_fenced_write("end")
        return written

    def _add_event(self, event: NewEvent) -> None:
        self._event_count += 1
        if self._event_count > MOST_EVENTS:
            raise ChildMisbehaved(f"there are more than {MOST_EVENTS} events")
        self._events.append(event)

    def _end_phase(self, now: float) -> None:
        if self.phase is not None:
            self._ended_phases.append((self.phase, now - self._phase_started))


def _log_failed_write(state: RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    log.warning("the end could not be written", error=str(error))
