"""What a worker may do to a job: claim it, and while its fence is the row's, keep it and end it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog
from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from jobs.clock import later, now, seconds_until
from jobs.errors import JobError
from jobs.events import AttemptStarted, Deferred, NewEvent, RequeueReason
from jobs.progress import Progress
from jobs.repository.counters import FENCED_WRITES, STORED_BYTES, increment, increment_phase
from jobs.repository.queue.fair_queue import lock, standings, take_turn
from jobs.repository.quotas import may_run
from jobs.repository.transitions import change, fail, move, requeue
from jobs.repository.uploads import StoredUpload, claimed_uploads
from jobs.spec import JobSpec
from jobs.states import HELD, State
from jobs.tables import Analysis, Artifact, Event, Job, JsonObject

NOT_UNDERSTOOD_SECONDS = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Claim:
    """A job that is ours until its lease ends; `fence` proves it. `seconds_left` until the deadline.

    `uploads` are those of the job's tenant that its specification names, by URI; `traceparent` is that of the request
    that submitted it, if that was traced.
    """

    job_id: str
    tenant: str
    fence: int
    attempt: int
    spec: JobSpec
    seconds_left: float
    uploads: Mapping[str, StoredUpload]
    traceparent: str | None = None


@dataclass(frozen=True)
class PublishedArtifact:
    """An uploaded file and where it lies in the artifact store."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    key: str


@dataclass(frozen=True)
class StoredAnalysis:
    """What the database keeps of an analysis; `matrix` is L × L float32, little endian."""

    layers: list[JsonObject]
    matrix: bytes
    layer_names: list[str]
    segments: list[list[int]]
    loss_curve: list[float | None]
    estimator: str
    kernel: str
    n_samples: int
    sample_unit: str


@dataclass(frozen=True)
class JobUpdate:
    """What a worker has learned of its job since its last heartbeat: None and no events for nothing."""

    phase: str | None = None
    progress: Progress | None = None
    events: Sequence[NewEvent] = ()
    resolved: JsonObject | None = None
    plan: JsonObject | None = None


@dataclass(frozen=True)
class Outcome:
    """What a job that succeeds leaves in the database; types: `jobs/progress.py`, `jobs/results/`."""

    result: JsonObject
    plan: JsonObject | None = None
    resolved: JsonObject | None = None
    artifacts: Sequence[PublishedArtifact] = ()
    analysis: StoredAnalysis | None = None


class ClaimRepository:
    """Every method but the claims takes the fence of the claim and does nothing where it is not the row's any more."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def claim_next(self, *, worker: str, gpu_class: str, lease_seconds: float) -> Claim | None:
        """Take the job whose turn it is in this class, if any waits that may run."""
        lock(self._session, gpu_class)
        for turn in standings(self._session, gpu_class):
            if turn.head is not None:
                claim = self.claim(turn.head, worker=worker, gpu_class=gpu_class, lease_seconds=lease_seconds)
                if claim is not None:
                    take_turn(self._session, gpu_class, turn)
                    return claim
        return None

    def claim(self, job_id: str, *, worker: str, gpu_class: str, lease_seconds: float) -> Claim | None:
        """Take a waiting job. None where it does not wait (any more), waits for another class or for its time, or its
        tenant has as many running as its quota allows.

        A job whose specification is of a later release waits `NOT_UNDERSTOOD_SECONDS` more, for a worker that knows it,
        and has an event that says so.
        """
        if not may_run(self._session, job_id):
            return None
        guards = [Job.id == job_id, Job.gpu_class == gpu_class, Job.not_before <= now(), Job.deadline_at > now()]
        chosen = select(Job.fence, Job.attempt, Job.spec, seconds_until(Job.deadline_at)).where(
            Job.state == State.QUEUED, *guards
        )
        for fence, attempt, stored, seconds_left in self._session.execute(chosen.with_for_update(skip_locked=True)):
            try:
                spec = JobSpec.model_validate(stored)
            except ValidationError:
                log.warning("the specification of a job is not understood", job_id=job_id)
                self._defer(job_id, [*guards, Job.fence == fence])
                return None
            job = move(
                self._session,
                State.RUNNING,
                [*guards, Job.fence == fence],
                AttemptStarted(attempt=attempt + 1),
                attempt=attempt + 1,
                fence=fence + 1,
                worker=worker,
                lease_until=later(lease_seconds),
                claimed_at=now(),
                started_at=func.coalesce(Job.started_at, now()),
            )
            if job is not None:
                uploads = claimed_uploads(self._session, job.tenant, spec)
                left = float(seconds_left)
                return Claim(job.id, job.tenant, job.fence, job.attempt, spec, left, uploads, job.traceparent)
        return None

    def heartbeat(
        self, job_id: str, fence: int, changed: JobUpdate = JobUpdate(), *, lease_seconds: float
    ) -> State | None:
        """Renew the lease and write what has changed. The job's state; None where another worker may have the job."""
        changes: dict[str, object] = {
            "progress": changed.progress and changed.progress.model_dump(),
            "resolved": changed.resolved,
            "plan": changed.plan,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        lease: dict[str, object] = {"lease_until": later(lease_seconds)}
        if changes or changed.events:
            values = {**lease, **changes, "phase": changed.phase}
            job = change(self._session, self._held(job_id, fence), values, changed.events)
            return State(job.state) if job else None
        statement = update(Job).where(*self._held(job_id, fence)).values(lease).returning(Job.state)
        state = self._session.scalar(statement.execution_options(synchronize_session=False))
        return State(state) if state else None

    def succeed(self, job_id: str, fence: int, outcome: Outcome, *, retention_days: float = 0) -> bool:
        """End the job and publish its files, which are kept for `retention_days`; 0 is for ever."""
        job = move(
            self._session,
            State.SUCCEEDED,
            self._held(job_id, fence),
            result=outcome.result,
            plan=outcome.plan,
            resolved=outcome.resolved,
        )
        if job is None:
            return False
        if outcome.analysis is not None:
            self._session.add(Analysis(job_id=job_id, **vars(outcome.analysis)))
        self._publish(job_id, outcome.artifacts, retention_days)
        return True

    def fail(
        self,
        job_id: str,
        fence: int,
        error: JobError,
        *,
        artifacts: Sequence[PublishedArtifact] = (),
        retention_days: float = 0,
    ) -> bool:
        """End the job with an error, and publish what it has made all the same."""
        if fail(self._session, self._held(job_id, fence), error) is None:
            return False
        self._publish(job_id, artifacts, retention_days)
        return True

    def cancelled(self, job_id: str, fence: int) -> bool:
        """End a job that was asked to stop, and has."""
        return move(self._session, State.CANCELLED, self._held(job_id, fence)) is not None

    def release(self, job_id: str, fence: int, *, reason: RequeueReason, wait_seconds: float = 0) -> bool:
        """Give the job back unfinished, not counting the attempt; one that was being cancelled is cancelled."""
        held = self._held(job_id, fence)
        requeued = requeue(self._session, held, reason, wait_seconds, attempt=Job.attempt - 1)
        return requeued is not None or self.cancelled(job_id, fence)

    def count_phases(self, phases: Iterable[tuple[str, float]]) -> None:
        """Count phases of a job that are over, with their seconds."""
        for phase, seconds in phases:
            increment_phase(self._session, phase, seconds)

    def count_fenced_write(self, what: str) -> None:
        """Count a write, of a `heartbeat` or an `end`, that a fence has kept out."""
        increment(self._session, FENCED_WRITES, what)

    def _defer(self, job_id: str, guards: Sequence[ColumnElement[bool]]) -> None:
        values = {"not_before": later(NOT_UNDERSTOOD_SECONDS)}
        last = select(Event.type).where(Event.job_id == job_id).order_by(Event.seq.desc()).limit(1)
        if self._session.scalar(last) != "deferred":
            reason = Deferred(reason="specification_not_understood")
            change(self._session, guards, values, [NewEvent("deferred", reason)])
            return
        waits = update(Job).where(*guards).values(values)
        self._session.execute(waits.execution_options(synchronize_session=False))

    def _publish(self, job_id: str, artifacts: Sequence[PublishedArtifact], retention_days: float) -> None:
        expiry = {"expires_at": later(retention_days * 86400)} if retention_days else {}
        self._session.add_all(
            Artifact(job_id=job_id, created_at=now(), **expiry, **vars(artifact)) for artifact in artifacts
        )
        self._session.flush()
        increment(self._session, STORED_BYTES, amount=sum(artifact.size_bytes for artifact in artifacts))

    def _held(self, job_id: str, fence: int) -> list[ColumnElement[bool]]:
        return [Job.id == job_id, Job.fence == fence, Job.state.in_(HELD)]
