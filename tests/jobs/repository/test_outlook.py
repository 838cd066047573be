"""Where a waiting job stands, against the order in which workers then start all jobs; on both databases."""

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import JobRepository, Outlook, Place
from tests.jobs.repository.test_fair_queue import ALPHA, BETA, GAMMA, end, set_share, started, submit, work

Sessions = sessionmaker[Session]
SECONDS = 10


def place(sessions: Sessions, tenant: str, job_id: str) -> Place | None:
    with transaction(sessions) as session:
        ranked = JobRepository(session).get_ranked(tenant, job_id)
        assert ranked is not None
        if ranked.ahead is None:
            return None
        return Outlook.read(session, ranked.job.gpu_class).place(tenant, ranked.ahead)


def position(sessions: Sessions, tenant: str, job_id: str) -> int:
    found = place(sessions, tenant, job_id)
    assert found is not None
    return found.position


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 4)], ids=str)
def test_each_job_starts_at_the_position_that_it_was_told(sessions: Sessions, weights: tuple[float, ...]) -> None:
    queued: dict[str, str] = {}
    for tenant, weight, count in zip((ALPHA, BETA, GAMMA), weights, (12, 5, 2), strict=True):
        set_share(sessions, tenant, weight=weight)
        queued |= dict.fromkeys(submit(sessions, tenant, count), tenant)
    queued |= dict.fromkeys(submit(sessions, ALPHA, 1, priority=1), ALPHA)
    told = {job_id: position(sessions, tenant, job_id) for job_id, tenant in queued.items()}
    order = []
    for _ in queued:
        (claim,) = started(sessions, 1)
        order.append(claim.job_id)
        # As long as is assumed where nothing has run yet.
        work(sessions, [claim], 1)
        end(sessions, claim)
    assert sorted(told.values()) == list(range(1, len(queued) + 1))
    # What a claim itself takes is added to the seconds, and may turn those who come at the same time.
    assert all(abs(told[job_id] - i) <= 2 for i, job_id in enumerate(order, 1)), (told, order)


def test_the_start_is_expected_from_how_long_attempts_took_and_how_many_run(sessions: Sessions) -> None:
    first = submit(sessions, ALPHA, 30)
    assert place(sessions, ALPHA, first[10]) == Place(11, None)
    for claim in started(sessions, 4):
        work(sessions, [claim], SECONDS)
        end(sessions, claim)
    assert place(sessions, ALPHA, first[10]) == Place(7, None)
    started(sessions, 2)
    found = place(sessions, ALPHA, first[10])
    assert found is not None
    assert found.position == 5
    # Two workers, so every five seconds one is free.
    assert found.expected_start_seconds == pytest.approx(5 * SECONDS / 2, abs=2)


def test_it_is_not_known_when_a_tenant_at_its_quota_starts_the_next_job(sessions: Sessions) -> None:
    jobs = submit(sessions, ALPHA, 3)
    for claim in started(sessions, 1):
        end(sessions, claim)
    set_share(sessions, ALPHA, running_jobs=1)
    started(sessions, 1)
    assert place(sessions, ALPHA, jobs[2]) == Place(1, None)
    submit(sessions, BETA, 5)
    # Others pass it.
    assert position(sessions, BETA, submit(sessions, BETA)[0]) == 6


def test_a_job_that_does_not_wait_has_no_place(sessions: Sessions) -> None:
    (job_id,) = submit(sessions, ALPHA)
    started(sessions, 1)
    assert place(sessions, ALPHA, job_id) is None


def test_jobs_of_another_class_are_not_before_it(sessions: Sessions) -> None:
    submit(sessions, ALPHA, 5, gpu_class="h100")
    submit(sessions, BETA, 5, gpu_class="h100")
    assert position(sessions, ALPHA, submit(sessions, ALPHA)[0]) == 1
