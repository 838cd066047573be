"""A job as its tenant sees it, and what the database itself refuses; on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from jobs.clock import now
from jobs.database import transaction
from jobs.repository import JobRepository
from jobs.spec import JobSpec
from jobs.states import State
from jobs.tables import Event, Job
from tests.jobs.repository.lives import (
    ARTIFACT,
    SPEC,
    Sessions,
    as_holder,
    beat,
    cancel,
    claim,
    events,
    row,
    running,
    submit,
)


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
