"""What the scheduler does to jobs, on both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from jobs.clock import now
from jobs.database import transaction
from jobs.repository import UpkeepRepository
from jobs.states import State
from tests.jobs.repository.lives import (
    ARTIFACT,
    LEASE_SECONDS,
    Sessions,
    as_holder,
    cancel,
    claim,
    events,
    pass_time,
    row,
    running,
    submit,
    upkeep,
)


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


def test_a_finished_job_is_swept_behind_once_and_not_at_once(sessions: Sessions) -> None:
    held = running(sessions)
    as_holder(sessions, held, "succeed")
    assert upkeep(sessions, lambda duties: duties.unswept(60, 10)) == []
    pass_time(sessions, held.job_id, 61)
    assert upkeep(sessions, lambda duties: duties.unswept(60, 10)) == [held.job_id]
    assert upkeep(sessions, lambda duties: duties.published_keys(held.job_id)) == [ARTIFACT.key]
    upkeep(sessions, lambda duties: duties.mark_swept(held.job_id))
    assert upkeep(sessions, lambda duties: duties.unswept(60, 10)) == []
