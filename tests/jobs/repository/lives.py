"""Jobs at every point of their life, for tests. Time passes by moving the stored times, never by a faked clock."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.errors import JobError
from jobs.repository import (
    Claim,
    ClaimRepository,
    JobRepository,
    JobUpdate,
    Outcome,
    PublishedArtifact,
    StoredAnalysis,
    UpkeepRepository,
)
from jobs.spec import JobSpec
from jobs.states import State
from jobs.tables import Job

Sessions = sessionmaker[Session]
SPEC = JobSpec.model_validate({"model": {"uri": "hf://org/name"}, "target": {"kind": "layers", "ratio": 0.25}})
LEASE_SECONDS = 30
ERROR = JobError(code="internal", message="broken", phase="measuring", attempt=1)
ANALYSIS = StoredAnalysis(
    layers=[{"index": 0}],
    matrix=b"\0\0\x80?",
    layer_names=["h.0"],
    segments=[[0, 0]],
    loss_curve=[0.0],
    estimator="unbiased",
    kernel="linear",
    n_samples=8,
    sample_unit="token position",
)
ARTIFACT = PublishedArtifact("model/config.json", "application/json", 2, "0" * 64, "jobs/a/1/model/config.json")


def submit(sessions: Sessions, max_attempts: int = 3, **spec: Any) -> str:
    with transaction(sessions) as session:
        job_spec = SPEC.model_copy(update=spec)
        return JobRepository(session).submit("default", job_spec, max_attempts=max_attempts).id


def claim(sessions: Sessions, job_id: str, gpu_class: str = "default") -> Claim | None:
    with transaction(sessions) as session:
        return ClaimRepository(session).claim(job_id, worker="w", gpu_class=gpu_class, lease_seconds=LEASE_SECONDS)


def running(sessions: Sessions, **spec: Any) -> Claim:
    held = claim(sessions, submit(sessions, **spec))
    assert held is not None
    return held


def beat(sessions: Sessions, held: Claim, **changed: Any) -> State | None:
    with transaction(sessions) as session:
        claims = ClaimRepository(session)
        return claims.heartbeat(held.job_id, held.fence, JobUpdate(**changed), lease_seconds=LEASE_SECONDS)


def as_holder(sessions: Sessions, held: Claim, ending: str, **arguments: Any) -> bool:
    if ending == "succeed":
        arguments = {"outcome": Outcome({}, artifacts=[ARTIFACT], analysis=ANALYSIS)}
    if ending == "fail":
        arguments = {"error": ERROR}
    if ending == "release":
        arguments = {"reason": "worker_shutdown"}
    with transaction(sessions) as session:
        return getattr(ClaimRepository(session), ending)(held.job_id, held.fence, **arguments)


def cancel(sessions: Sessions, job_id: str) -> Job | None:
    with transaction(sessions) as session:
        return JobRepository(session).cancel("default", job_id)


def upkeep(sessions: Sessions, duty: Callable[[UpkeepRepository], Any]) -> Any:
    with transaction(sessions) as session:
        return duty(UpkeepRepository(session))


def row(sessions: Sessions, job_id: str) -> Job:
    with transaction(sessions) as session:
        job = JobRepository(session).get("default", job_id)
    assert job is not None
    return job


def events(sessions: Sessions, job_id: str) -> list[tuple[int, str, dict[str, Any]]]:
    with transaction(sessions) as session:
        rows = JobRepository(session).events("default", job_id, after=0, limit=100)
        return [(event.seq, event.type, event.data) for event in rows]


def pass_time(sessions: Sessions, job_id: str, seconds: float) -> None:
    """Move the job's times into the past."""
    with transaction(sessions) as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
        for name in ("lease_until", "not_before", "claimed_at", "deadline_at", "finished_at"):
            if getattr(job, name) is not None:
                setattr(job, name, getattr(job, name) - timedelta(seconds=seconds))
