"""What the holder of a job may do, and nobody else; on both databases."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy.exc import StatementError

from jobs.database import transaction
from jobs.errors import MOST_MESSAGE, JobError
from jobs.events import NewEvent, PhaseStarted
from jobs.progress import Progress
from jobs.repository import Claim, ClaimRepository, JobRepository
from jobs.repository.claims import NOT_UNDERSTOOD_SECONDS
from jobs.states import State
from jobs.tables import Job
from tests.jobs.repository.lives import (
    ANALYSIS,
    ARTIFACT,
    LEASE_SECONDS,
    SPEC,
    Sessions,
    as_holder,
    beat,
    cancel,
    claim,
    events,
    pass_time,
    row,
    running,
    submit,
    upkeep,
)


def test_a_claim_takes_the_job_with_a_new_fence_and_a_lease(sessions: Sessions) -> None:
    held = running(sessions, deadline_seconds=100)
    job = row(sessions, held.job_id)
    assert (job.state, job.attempt, job.fence, job.worker) == ("running", 1, 1, "w")
    assert (held.attempt, held.fence, held.spec) == (1, 1, SPEC.model_copy(update={"deadline_seconds": 100}))
    assert 90 < held.seconds_left <= 100
    assert job.started_at is not None
    assert job.lease_until is not None
    assert job.lease_until - job.started_at == timedelta(seconds=LEASE_SECONDS)
    assert events(sessions, held.job_id)[1:] == [(2, "running", {"attempt": 1})]


def test_only_one_of_many_workers_gets_the_job(sessions: Sessions) -> None:
    job_id = submit(sessions)
    start = threading.Barrier(8)
    claims: list[Claim | None] = []

    def worker() -> None:
        start.wait()
        claims.append(claim(sessions, job_id))

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 8
    assert len([found for found in claims if found]) == 1
    assert row(sessions, job_id).attempt == 1


def test_a_worker_of_another_class_gets_nothing(sessions: Sessions) -> None:
    assert claim(sessions, submit(sessions, gpu_class="a100")) is None


def test_an_unknown_job_cannot_be_claimed(sessions: Sessions) -> None:
    assert claim(sessions, "job_unknown") is None


def test_a_heartbeat_renews_the_lease_and_is_no_new_version(sessions: Sessions) -> None:
    held = running(sessions)
    pass_time(sessions, held.job_id, 20)
    before = row(sessions, held.job_id)
    assert beat(sessions, held) == State.RUNNING
    after = row(sessions, held.job_id)
    assert after.version == before.version
    assert after.lease_until is not None
    assert before.lease_until is not None
    assert after.lease_until - before.lease_until > timedelta(seconds=19)


def test_changes_in_a_heartbeat_are_a_new_version_with_numbered_events(sessions: Sessions) -> None:
    held = running(sessions)
    progress = Progress(done=1, total=2, unit="batches", eta_seconds=3)
    phases = [NewEvent("phase", PhaseStarted(phase=phase)) for phase in ("fetching", "measuring")]
    beat(sessions, held, phase="measuring", progress=progress, events=phases, plan={"removed_layers": [1]})
    job = row(sessions, held.job_id)
    assert (job.phase, job.progress, job.plan, job.version) == (
        "measuring",
        {"done": 1, "total": 2, "unit": "batches", "eta_seconds": 3},
        {"removed_layers": [1]},
        3,
    )
    assert events(sessions, held.job_id)[2:] == [
        (3, "phase", {"phase": "fetching"}),
        (4, "phase", {"phase": "measuring"}),
    ]


def test_success_publishes_everything_at_once(sessions: Sessions) -> None:
    held = running(sessions)
    assert as_holder(sessions, held, "succeed")
    job = row(sessions, held.job_id)
    assert (job.state, job.result, job.lease_until, job.worker) == ("succeeded", {}, None, None)
    assert job.finished_at is not None
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        (artifact,) = jobs.artifacts("default", held.job_id)
        analysis = jobs.analysis("default", held.job_id)
    assert (artifact.name, artifact.key) == (ARTIFACT.name, ARTIFACT.key)
    assert analysis is not None
    assert analysis.matrix == ANALYSIS.matrix
    assert events(sessions, held.job_id)[-1] == (3, "succeeded", {})


def test_a_failure_keeps_its_error(sessions: Sessions) -> None:
    held = running(sessions)
    assert as_holder(sessions, held, "fail")
    described = {"code": "internal", "message": "broken", "phase": "measuring", "attempt": 1, "retryable": True}
    assert row(sessions, held.job_id).error == described
    assert events(sessions, held.job_id)[-1] == (3, "failed", described)


def test_what_a_database_does_not_know_as_text_keeps_no_job_from_ending(sessions: Sessions) -> None:
    held = running(sessions)
    odd = "model_type \0 \\\0 \ud83d \\u0000"
    assert (
        beat(sessions, held, events=[NewEvent("phase", PhaseStarted(phase=odd))], resolved={odd: [odd]})
        == State.RUNNING
    )
    error = JobError(code="unsupported_architecture", message=odd * 1000, phase=None, attempt=1)
    with transaction(sessions) as session:
        assert ClaimRepository(session).fail(held.job_id, held.fence, error)
    job = row(sessions, held.job_id)
    kept = "model_type \ufffd \\\ufffd ? \\u0000"
    assert job.resolved == {kept: [kept]}
    assert job.error is not None
    assert job.error["message"].startswith(kept)
    assert len(job.error["message"]) == MOST_MESSAGE
    assert events(sessions, held.job_id)[2] == (3, "phase", {"phase": kept})


@pytest.mark.parametrize("ending", ["succeed", "fail", "cancelled", "release"])
def test_a_holder_whose_fence_is_old_writes_nothing(sessions: Sessions, ending: str) -> None:
    old = running(sessions)
    pass_time(sessions, old.job_id, LEASE_SECONDS + 1)
    upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=0))
    new = claim(sessions, old.job_id)
    assert new is not None
    before = events(sessions, old.job_id)
    assert beat(sessions, old) is None
    assert not as_holder(sessions, old, ending)
    assert events(sessions, old.job_id) == before
    assert row(sessions, old.job_id).fence == new.fence


@pytest.mark.parametrize("ending", ["succeed", "fail", "release"])
def test_a_finished_job_stays_as_it_is(sessions: Sessions, ending: str) -> None:
    held = running(sessions)
    as_holder(sessions, held, "fail")
    before = row(sessions, held.job_id).version
    assert not as_holder(sessions, held, ending)
    assert beat(sessions, held) is None
    assert row(sessions, held.job_id).version == before


def test_a_released_job_waits_again_and_the_attempt_does_not_count(sessions: Sessions) -> None:
    held = running(sessions)
    assert as_holder(sessions, held, "release")
    job = row(sessions, held.job_id)
    assert (job.state, job.attempt, job.fence) == ("queued", 0, held.fence + 1)
    assert events(sessions, held.job_id)[-1] == (3, "requeued", {"reason": "worker_shutdown"})
    assert claim(sessions, held.job_id) is not None


def test_a_job_released_while_it_is_cancelled_is_cancelled(sessions: Sessions) -> None:
    held = running(sessions)
    cancel(sessions, held.job_id)
    assert as_holder(sessions, held, "release")
    assert row(sessions, held.job_id).state == "cancelled"


def test_a_figure_that_is_no_number_is_refused_and_nothing_is_written(sessions: Sessions) -> None:
    held = running(sessions)
    with pytest.raises((ValueError, StatementError), match="JSON"):
        beat(sessions, held, phase="measuring", plan={"achieved": float("nan")})
    assert row(sessions, held.job_id).version == 2


def test_a_job_of_a_later_release_waits_and_says_so_once(sessions: Sessions) -> None:
    job_id = submit(sessions)
    with transaction(sessions) as session:
        job = session.get_one(Job, job_id)
        job.spec = {**job.spec, "of_tomorrow": 1}
    for _ in range(2):
        assert claim(sessions, job_id) is None
        pass_time(sessions, job_id, NOT_UNDERSTOOD_SECONDS - 5)
        assert claim(sessions, job_id) is None
        pass_time(sessions, job_id, 6)
    said = (2, "deferred", {"reason": "specification_not_understood"})
    assert events(sessions, job_id)[1:] == [said]
    # A worker of that release takes it; what happens to it then may defer it once more.
    with transaction(sessions) as session:
        session.get_one(Job, job_id).spec = SPEC.model_dump(mode="json")
    assert claim(sessions, job_id) is not None
    assert [event[1] for event in events(sessions, job_id)] == ["queued", "deferred", "running"]
