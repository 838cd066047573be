"""A job's life in the database, on both databases. Time passes by moving the stored times, never by a faked clock."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session, sessionmaker

from jobs.clock import now
from jobs.database import transaction
from jobs.errors import JobError
from jobs.repository import Claim, ClaimRepository, JobRepository, PublishedArtifact, StoredAnalysis, UpkeepRepository
from jobs.spec import JobSpec
from jobs.states import State
from jobs.tables import Event, Job

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
        wanted = SPEC.model_copy(update=spec)
        return JobRepository(session).submit("default", wanted, max_attempts=max_attempts).id


def claim(sessions: Sessions, job_id: str, gpu_class: str = "default") -> Claim | None:
    with transaction(sessions) as session:
        return ClaimRepository(session).claim(job_id, worker="w", gpu_class=gpu_class, lease_seconds=LEASE_SECONDS)


def running(sessions: Sessions, **spec: Any) -> Claim:
    found = claim(sessions, submit(sessions, **spec))
    assert found is not None
    return found


def beat(sessions: Sessions, held: Claim, **news: Any) -> State | None:
    news = {"phase": None, "progress": None, "events": [], **news}
    with transaction(sessions) as session:
        return ClaimRepository(session).heartbeat(held.job_id, held.fence, lease_seconds=LEASE_SECONDS, **news)


def as_holder(sessions: Sessions, held: Claim, ending: str, **arguments: Any) -> bool:
    if ending == "succeed":
        arguments = {"result": {}, "plan": None, "resolved": None, "artifacts": [ARTIFACT], "analysis": ANALYSIS}
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
        found = JobRepository(session).events("default", job_id, after=0, limit=100)
        return [(event.seq, event.type, event.data) for event in found]


def pass_time(sessions: Sessions, job_id: str, seconds: float) -> None:
    """Move the job's times into the past."""
    with transaction(sessions) as session:
        job = session.scalars(select(Job).where(Job.id == job_id)).one()
        for name in ("lease_until", "not_before", "hinted_at", "deadline_at", "finished_at"):
            if getattr(job, name) is not None:
                setattr(job, name, getattr(job, name) - timedelta(seconds=seconds))


def test_a_new_job_waits_and_its_first_event_says_so(sessions: Sessions) -> None:
    job = row(sessions, submit(sessions))
    assert (job.state, job.attempt, job.fence, job.version) == ("queued", 0, 0, 1)
    assert events(sessions, job.id) == [(1, "queued", {})]
    assert JobSpec.model_validate(job.spec) == SPEC


def test_ids_are_prefixed_and_sort_by_time(sessions: Sessions) -> None:
    first = submit(sessions)
    second = submit(sessions)
    assert first.startswith("job_")
    assert first[:14] <= second[:14]
    assert first != second


def test_the_deadline_counts_from_submission_on_the_databases_clock(sessions: Sessions) -> None:
    job = row(sessions, submit(sessions, deadline_seconds=100))
    assert job.deadline_at - job.created_at == timedelta(seconds=100)
    with transaction(sessions) as session:
        assert abs(session.scalar(select(now())) - job.created_at) < timedelta(seconds=30)


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


def test_news_of_a_heartbeat_is_a_new_version_with_numbered_events(sessions: Sessions) -> None:
    held = running(sessions)
    progress = {"done": 1, "total": 2, "unit": "batches", "eta_seconds": 3}
    news = [("phase", {"phase": "fetching"}), ("phase", {"phase": "measuring"})]
    beat(sessions, held, phase="measuring", progress=progress, events=news, plan={"removed_layers": [1]})
    job = row(sessions, held.job_id)
    assert (job.phase, job.progress, job.plan, job.version) == ("measuring", progress, {"removed_layers": [1]}, 3)
    assert events(sessions, held.job_id)[2:] == [(3, *news[0]), (4, *news[1])]


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


def test_a_waiting_job_is_cancelled_at_once_and_never_claimed(sessions: Sessions) -> None:
    job_id = submit(sessions)
    job = cancel(sessions, job_id)
    assert job is not None
    assert job.state == "cancelled"
    assert claim(sessions, job_id) is None
    assert [kind for _, kind, _ in events(sessions, job_id)] == ["queued", "cancelled"]


def test_a_running_job_is_asked_to_stop_once(sessions: Sessions) -> None:
    held = running(sessions)
    for _ in range(2):
        cancel(sessions, held.job_id)
    assert beat(sessions, held) == State.CANCELLING
    assert as_holder(sessions, held, "cancelled")
    assert [kind for _, kind, _ in events(sessions, held.job_id)] == ["queued", "running", "cancelling", "cancelled"]


def test_a_job_may_still_succeed_while_it_is_cancelled(sessions: Sessions) -> None:
    held = running(sessions)
    cancel(sessions, held.job_id)
    assert as_holder(sessions, held, "succeed")
    assert row(sessions, held.job_id).state == "succeeded"


def test_a_finished_job_cannot_be_cancelled(sessions: Sessions) -> None:
    held = running(sessions)
    as_holder(sessions, held, "succeed")
    job = cancel(sessions, held.job_id)
    assert job is not None
    assert job.state == "succeeded"


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


def test_the_job_of_a_dead_worker_waits_again_after_a_pause_that_doubles(sessions: Sessions) -> None:
    job_id = submit(sessions)
    pauses = []
    for _ in range(2):
        assert claim(sessions, job_id) is not None
        pass_time(sessions, job_id, LEASE_SECONDS + 1)
        assert upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=50)) == [(job_id, State.QUEUED)]
        assert claim(sessions, job_id) is None
        with transaction(sessions) as session:
            pauses.append((row(sessions, job_id).not_before - session.scalar(select(now()))).total_seconds())
        pass_time(sessions, job_id, 101)
    assert pauses == [pytest.approx(50, abs=10), pytest.approx(100, abs=10)]
    assert events(sessions, job_id)[2] == (3, "requeued", {"reason": "lease_expired"})


def test_a_live_lease_is_left_alone(sessions: Sessions) -> None:
    running(sessions)
    assert upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=0)) == []


def test_a_job_that_kills_every_worker_ends(sessions: Sessions) -> None:
    job_id = submit(sessions, max_attempts=2)
    for _ in range(2):
        assert claim(sessions, job_id) is not None
        pass_time(sessions, job_id, LEASE_SECONDS + 1)
        upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=0))
    job = row(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["code"], job.error["attempt"]) == ("worker_lost", 2)


def test_the_job_of_a_dead_worker_that_was_to_stop_is_cancelled(sessions: Sessions) -> None:
    held = running(sessions)
    cancel(sessions, held.job_id)
    pass_time(sessions, held.job_id, LEASE_SECONDS + 1)
    assert upkeep(sessions, lambda duties: duties.reap(10, 0)) == [(held.job_id, State.CANCELLED)]


def test_a_job_nobody_takes_fails_at_its_deadline(sessions: Sessions) -> None:
    job_id = submit(sessions, deadline_seconds=60)
    assert upkeep(sessions, lambda duties: duties.expire_queued(10)) == 0
    pass_time(sessions, job_id, 61)
    assert claim(sessions, job_id) is None
    assert upkeep(sessions, lambda duties: duties.expire_queued(10)) == 1
    error = row(sessions, job_id).error
    assert error is not None
    assert error["code"] == "queue_deadline_exceeded"


def test_a_job_that_was_lost_and_then_late_did_run(sessions: Sessions) -> None:
    held = running(sessions, deadline_seconds=60)
    pass_time(sessions, held.job_id, 61)
    upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=0))
    upkeep(sessions, lambda duties: duties.expire_queued(10))
    error = row(sessions, held.job_id).error
    assert error is not None
    assert error["code"] == "deadline_exceeded"


def test_a_job_that_is_being_reaped_can_still_be_cancelled(sessions: Sessions) -> None:
    held = running(sessions)
    pass_time(sessions, held.job_id, LEASE_SECONDS + 1)
    with ThreadPoolExecutor() as threads:
        with transaction(sessions) as session:
            UpkeepRepository(session).reap(10, backoff_seconds=0)
            cancelling = threads.submit(cancel, sessions, held.job_id)
            # It has to wait for this transaction, whose result it has not seen.
            with pytest.raises(TimeoutError):
                cancelling.result(timeout=1)
        job = cancelling.result(timeout=20)
    assert job is not None
    assert job.state == "cancelled"


def test_the_jobs_of_a_class_without_workers_do_not_keep_others_from_their_hints(sessions: Sessions) -> None:
    jobs = [submit(sessions, gpu_class=f"class-{i}") for i in range(3)]
    hinted = [upkeep(sessions, lambda duties: duties.take_hints(1, interval_seconds=0)) for _ in range(3)]
    assert {job_id for ((job_id, _),) in hinted} == set(jobs)


def test_hints_go_out_oldest_first_and_again_after_the_interval(sessions: Sessions) -> None:
    first, second = sorted([submit(sessions), submit(sessions, gpu_class="a100")])
    classes = {first: row(sessions, first).gpu_class, second: row(sessions, second).gpu_class}

    def hints() -> list[tuple[str, str]]:
        return upkeep(sessions, lambda duties: duties.take_hints(10, interval_seconds=30))

    assert hints() == [(first, classes[first]), (second, classes[second])]
    assert hints() == []
    pass_time(sessions, second, 31)
    assert hints() == [(second, classes[second])]


def test_running_and_finished_jobs_are_not_hinted(sessions: Sessions) -> None:
    running(sessions)
    cancel(sessions, submit(sessions))
    assert upkeep(sessions, lambda duties: duties.take_hints(10, 30)) == []


def test_a_finished_job_is_swept_behind_once_and_not_at_once(sessions: Sessions) -> None:
    held = running(sessions)
    as_holder(sessions, held, "succeed")
    assert upkeep(sessions, lambda duties: duties.unswept(60, 10)) == []
    pass_time(sessions, held.job_id, 61)
    assert upkeep(sessions, lambda duties: duties.unswept(60, 10)) == [held.job_id]
    assert upkeep(sessions, lambda duties: duties.published_keys(held.job_id)) == [ARTIFACT.key]
    upkeep(sessions, lambda duties: duties.mark_swept(held.job_id))
    assert upkeep(sessions, lambda duties: duties.unswept(60, 10)) == []


def test_another_tenants_job_does_not_exist(sessions: Sessions) -> None:
    held = running(sessions)
    as_holder(sessions, held, "succeed")
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        assert jobs.get("other", held.job_id) is None
        assert jobs.cancel("other", held.job_id) is None
        assert jobs.page("other", limit=10, before=None, status=None) == []
        assert jobs.events("other", held.job_id, after=0, limit=10) == []
        assert jobs.artifacts("other", held.job_id) == []
        assert jobs.artifact("other", held.job_id, ARTIFACT.name) is None
        assert jobs.analysis("other", held.job_id) is None


def test_another_tenant_cannot_cancel(sessions: Sessions) -> None:
    job_id = submit(sessions)
    with transaction(sessions) as session:
        JobRepository(session).cancel("other", job_id)
    assert row(sessions, job_id).state == "queued"


def test_pages_go_from_new_to_old_without_gap_or_repeat(sessions: Sessions) -> None:
    ids = sorted((submit(sessions) for _ in range(5)), reverse=True)
    seen: list[str] = []
    with transaction(sessions) as session:
        while page := JobRepository(session).page("default", limit=2, before=seen[-1] if seen else None, status=None):
            seen += [job.id for job in page]
        assert [j.id for j in JobRepository(session).page("default", limit=9, before=None, status=State.FAILED)] == []
    assert seen == ids


def test_the_database_itself_allows_only_one_end(sessions: Sessions) -> None:
    held = running(sessions)
    as_holder(sessions, held, "fail")
    with pytest.raises(IntegrityError), transaction(sessions) as session:
        session.add(Event(job_id=held.job_id, seq=99, type="succeeded", data={}, created_at=now()))


def test_the_database_itself_refuses_a_lease_without_a_holder(sessions: Sessions) -> None:
    job_id = submit(sessions)
    with pytest.raises(IntegrityError), transaction(sessions) as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=now()))


def test_a_figure_that_is_no_number_is_refused_and_nothing_is_written(sessions: Sessions) -> None:
    held = running(sessions)
    with pytest.raises((ValueError, StatementError), match="JSON"):
        beat(sessions, held, phase="measuring", progress={"done": float("nan")})
    assert row(sessions, held.job_id).version == 2
