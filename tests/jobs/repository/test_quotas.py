"""The quota of running jobs: a tenant that has reached it is passed over, and the jobs of others go on."""

from concurrent.futures import ThreadPoolExecutor, wait

from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import Claim, ClaimRepository, JobRepository, QueueRepository, Quotas, TenantRepository
from jobs.spec import JobSpec

Sessions = sessionmaker[Session]
SPEC = JobSpec.model_validate({"mode": "analyze", "model": {"uri": "hf://org/name"}})


def submit(sessions: Sessions, tenant: str) -> str:
    with transaction(sessions) as session:
        return JobRepository(session).submit(tenant, SPEC, max_attempts=3).id


def limit(sessions: Sessions, tenant: str, running_jobs: int | None) -> None:
    with transaction(sessions) as session:
        TenantRepository(session).ensure(tenant)
        TenantRepository(session).set_quotas(tenant, Quotas(running_jobs=running_jobs))


def claim(sessions: Sessions, job_id: str) -> Claim | None:
    with transaction(sessions) as session:
        return ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)


def claimable(sessions: Sessions) -> set[str]:
    with transaction(sessions) as session:
        return {job_id for ids in QueueRepository(session).claimable(100).values() for job_id in ids}


def release(sessions: Sessions, held: Claim) -> None:
    with transaction(sessions) as session:
        assert ClaimRepository(session).release(held.job_id, held.fence, reason="worker_shutdown")


def test_workers_that_claim_at_once_stay_within_the_quota(sessions: Sessions) -> None:
    limit(sessions, "many", 3)
    ids = [submit(sessions, "many") for _ in range(12)]
    other = submit(sessions, "other")
    with ThreadPoolExecutor(12) as pool:
        claims = list(pool.map(lambda job_id: claim(sessions, job_id), ids))
    assert len([held for held in claims if held]) == 3
    assert claim(sessions, other) is not None


def test_a_claim_waits_for_another_of_its_tenant_that_is_not_decided_yet(sessions: Sessions) -> None:
    limit(sessions, "one", 1)
    first, second = submit(sessions, "one"), submit(sessions, "one")
    with ThreadPoolExecutor(1) as pool:
        with transaction(sessions) as session:
            assert ClaimRepository(session).claim(first, worker="w", gpu_class="default", lease_seconds=60)
            later = pool.submit(claim, sessions, second)
            # Without a lock it would be through long before this, and would not see the first.
            assert not wait([later], timeout=0.5).done
        assert later.result() is None


def test_a_job_that_was_passed_over_may_start_as_soon_as_one_has_ended(sessions: Sessions) -> None:
    limit(sessions, "one", 1)
    first, second, other = submit(sessions, "one"), submit(sessions, "one"), submit(sessions, "other")
    assert claimable(sessions) == {first, second, other}
    held = claim(sessions, first)
    assert held is not None
    assert claim(sessions, second) is None
    # While nobody may take it, workers are not told of it.
    assert claimable(sessions) == {other}
    release(sessions, held)
    assert claimable(sessions) == {first, second, other}
    assert claim(sessions, second) is not None


def test_a_job_being_cancelled_still_runs(sessions: Sessions) -> None:
    limit(sessions, "one", 1)
    first, second = submit(sessions, "one"), submit(sessions, "one")
    assert claim(sessions, first) is not None
    with transaction(sessions) as session:
        JobRepository(session).cancel("one", first)
    assert claim(sessions, second) is None


def test_a_quota_of_none_runs_nothing_and_its_absence_everything(sessions: Sessions) -> None:
    limit(sessions, "a", 0)
    job_id = submit(sessions, "a")
    assert claim(sessions, job_id) is None
    assert claimable(sessions) == set()
    limit(sessions, "a", None)
    assert claimable(sessions) == {job_id}
    assert claim(sessions, job_id) is not None
