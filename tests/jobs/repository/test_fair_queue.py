"""Whose turn it is: tenants share the workers of a class by weight, whatever they queue; on both databases."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import make_engine, make_sessions, transaction
from jobs.ids import new_id
from jobs.repository import Claim, ClaimRepository, JobRepository, QueueRepository, Quotas, TenantRepository
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.tables import Job, Share
from tests.jobs.repository.lives import LEASE_SECONDS, as_holder, pass_time, row, upkeep
from tests.services.postgresql import PostgreSQL

Sessions = sessionmaker[Session]
SPEC = JobSpec.model_validate({"mode": "analyze", "model": {"uri": "hf://org/name"}})
ALPHA, BETA, GAMMA = "alpha", "beta", "gamma"


def submit(sessions: Sessions, tenant: str, count: int = 1, **spec: object) -> list[str]:
    """New jobs, the first one copied: thousands are written at once."""
    with transaction(sessions) as session:
        job_spec = SPEC.model_copy(update=spec)
        first = JobRepository(session).submit(tenant, job_spec, max_attempts=3)
        written = session.scalars(select(Job).where(Job.id == first.id)).one()
        columns = {column.name: getattr(written, column.name) for column in Job.__table__.columns}
        ids = [new_id("job") for _ in range(count - 1)]
        if ids:
            session.execute(insert(Job), [columns | {"id": job_id} for job_id in ids])
    return [first.id, *ids]


def claim_next(sessions: Sessions, gpu_class: str = "default") -> Claim | None:
    with transaction(sessions) as session:
        return ClaimRepository(session).claim_next(worker="w", gpu_class=gpu_class, lease_seconds=LEASE_SECONDS)


def started(sessions: Sessions, count: int, gpu_class: str = "default") -> list[Claim]:
    claims = [claim_next(sessions, gpu_class) for _ in range(count)]
    return [claim for claim in claims if claim]


def tenants(claims: Sequence[Claim]) -> Counter[str]:
    return Counter(claim.tenant for claim in claims)


def set_share(sessions: Sessions, tenant: str, **quotas: object) -> None:
    with transaction(sessions) as session:
        TenantRepository(session).ensure(tenant)
        TenantRepository(session).set_quotas(tenant, Quotas(**quotas))  # type: ignore[arg-type]


def work(sessions: Sessions, claims: Sequence[Claim], seconds: float) -> None:
    """Let time pass for these attempts."""
    with transaction(sessions) as session:
        for job in session.scalars(select(Job).where(Job.id.in_([claim.job_id for claim in claims]))):
            assert job.claimed_at is not None
            job.claimed_at -= timedelta(seconds=seconds)


def end(sessions: Sessions, claim: Claim) -> None:
    assert as_holder(sessions, claim, "fail")


def advance(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        QueueRepository(session).advance()


def used_seconds(sessions: Sessions) -> dict[str, float]:
    with transaction(sessions) as session:
        return {share.tenant: share.virtual_time for share in session.scalars(select(Share))}


def test_a_few_jobs_start_among_the_thousands_that_another_tenant_queued_before(sessions: Sessions) -> None:
    many = submit(sessions, ALPHA, 2000)
    few = submit(sessions, BETA, 5)
    order = []
    for _ in range(20):
        (claim,) = started(sessions, 1)
        order.append(claim.job_id)
        work(sessions, [claim], 10)
        end(sessions, claim)
    assert [job_id for job_id in order if job_id in few] == few
    assert max(order.index(job_id) for job_id in few) <= 10
    # Alpha goes on in its own order, and has every other worker.
    assert [job_id for job_id in order if job_id not in few] == many[:15]


@pytest.mark.parametrize(
    ("workers", "weights"), [(1, (1, 1, 1)), (5, (1, 2, 0.5))], ids=["one worker", "five workers, by weight"]
)
def test_each_gets_its_share_of_the_worker_seconds_at_any_time(
    sessions: Sessions, workers: int, weights: Sequence[float]
) -> None:
    """Against the ideal, in which every tenant has its part of every second, as if workers could be divided."""
    chance = random.Random(f"{workers}{weights}")
    by_tenant = dict(zip((ALPHA, BETA, GAMMA), weights, strict=True))
    # Jobs of one tenant are long and of another short: shares are of time, not of jobs.
    lengths = {ALPHA: (2, 6), BETA: (5, 20), GAMMA: (20, 40)}
    for tenant, weight in by_tenant.items():
        set_share(sessions, tenant, weight=weight)
        submit(sessions, tenant, 200)
    used = dict.fromkeys(by_tenant, 0.0)
    left: dict[str, float] = {}
    running: dict[str, Claim] = {}
    largest = 0.0
    while sum(used.values()) < 400:
        for claim in started(sessions, workers - len(running)):
            running[claim.job_id] = claim
            left[claim.job_id] = chance.uniform(*lengths[claim.tenant])
        seconds = min(left[job_id] for job_id in running)
        work(sessions, list(running.values()), seconds)
        for job_id, claim in list(running.items()):
            used[claim.tenant] += seconds
            left[job_id] -= seconds
            if left[job_id] <= 0:
                end(sessions, running.pop(job_id))
        ideal = sum(used.values()) / sum(weights)
        largest = max(largest, *(abs(used[tenant] - ideal * weight) for tenant, weight in by_tenant.items()))
    # No running job is interrupted, so a tenant may be away from its part by as much as the longest job.
    assert largest <= 40


def test_one_who_was_away_has_saved_nothing_and_one_who_was_alone_owes_nothing(sessions: Sessions) -> None:
    submit(sessions, ALPHA, 100)
    submit(sessions, BETA, 1)
    for claim in started(sessions, 2):
        work(sessions, [claim], 10)
        end(sessions, claim)
    for _ in range(20):
        (claim,) = started(sessions, 1)
        work(sessions, [claim], 10)
        end(sessions, claim)
    submit(sessions, BETA, 100)
    assert tenants(started(sessions, 8)) in ({ALPHA: 4, BETA: 4}, {ALPHA: 3, BETA: 5})


def test_one_who_comes_while_hours_pass_without_a_claim_begins_now_and_not_at_the_last_one(sessions: Sessions) -> None:
    # One that may run nothing is not served least: it is not served.
    set_share(sessions, GAMMA, running_jobs=0)
    submit(sessions, GAMMA)
    submit(sessions, ALPHA, 100)
    long = started(sessions, 8)
    work(sessions, long, 36000)
    advance(sessions)
    submit(sessions, BETA, 100)
    advance(sessions)
    work(sessions, long, 10)
    for claim in long:
        end(sessions, claim)
    # Beta is owed the 80 seconds since it came, and not ten hours.
    assert tenants(started(sessions, 8))[ALPHA] > 0


def test_of_one_tenant_those_of_higher_priority_start_first_and_others_keep_their_share(sessions: Sessions) -> None:
    low, plain, high = (submit(sessions, ALPHA, 2, priority=priority) for priority in (-1, 0, 100))
    others = submit(sessions, BETA, 6)
    claims = started(sessions, 12)
    assert [claim.job_id for claim in claims if claim.tenant == ALPHA] == [*high, *plain, *low]
    assert [claim.job_id for claim in claims if claim.tenant == BETA] == others
    assert tenants(claims[:6]) == {ALPHA: 3, BETA: 3}


def test_a_tenant_at_its_running_quota_is_passed_over_and_goes_on_when_one_has_ended(sessions: Sessions) -> None:
    set_share(sessions, ALPHA, running_jobs=1)
    first, second = submit(sessions, ALPHA, 2)
    submit(sessions, BETA, 10)
    claims = started(sessions, 5)
    assert tenants(claims) == {ALPHA: 1, BETA: 4}
    (mine,) = [claim for claim in claims if claim.tenant == ALPHA]
    assert mine.job_id == first
    end(sessions, mine)
    assert second in {claim.job_id for claim in started(sessions, 2)}


def test_what_a_tenant_has_in_one_class_does_not_count_in_another(sessions: Sessions) -> None:
    submit(sessions, ALPHA, 20, gpu_class="h100")
    for claim in started(sessions, 20, "h100"):
        work(sessions, [claim], 1000)
        end(sessions, claim)
    submit(sessions, ALPHA, 10)
    submit(sessions, BETA, 10)
    assert claim_next(sessions, "h100") is None
    assert tenants(started(sessions, 6)) == {ALPHA: 3, BETA: 3}


def test_workers_that_ask_at_once_get_different_jobs_and_keep_to_the_shares(sessions: Sessions) -> None:
    submit(sessions, ALPHA, 20)
    submit(sessions, BETA, 20)
    start = threading.Barrier(10)
    claims: list[Claim] = []

    def worker() -> None:
        start.wait()
        claims.extend(started(sessions, 1))

    threads = [threading.Thread(target=worker) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({claim.job_id for claim in claims}) == 10
    assert tenants(claims) == {ALPHA: 5, BETA: 5}


def test_a_job_that_another_transaction_works_on_is_passed_over(postgresql_server: PostgreSQL) -> None:
    engine = make_engine(Settings(database_url=postgresql_server.database()))
    sessions = make_sessions(engine)
    submit(sessions, ALPHA)
    (other,) = submit(sessions, BETA)
    with transaction(sessions) as session:
        session.execute(select(Job.id).where(Job.tenant == ALPHA).with_for_update())
        assert [claim.job_id for claim in started(sessions, 1)] == [other]
    engine.dispose()


def test_every_way_in_which_an_attempt_ends_counts_its_seconds_once(sessions: Sessions) -> None:
    set_share(sessions, ALPHA, weight=2)
    submit(sessions, ALPHA, 2)
    released, lost = started(sessions, 2)
    work(sessions, [released], 100)
    end(sessions, released)
    assert used_seconds(sessions)[ALPHA] == pytest.approx(50, abs=1)
    work(sessions, [lost], 10)
    pass_time(sessions, lost.job_id, LEASE_SECONDS + 1)
    upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=0))
    # `pass_time` has moved the claim as well.
    assert used_seconds(sessions)[ALPHA] == pytest.approx(50 + (10 + LEASE_SECONDS + 1) / 2, abs=1)


def test_a_job_of_a_later_release_waits_and_the_others_go_on(sessions: Sessions) -> None:
    (unknown,) = submit(sessions, ALPHA)
    (known,) = submit(sessions, BETA)
    with transaction(sessions) as session:
        spec = SPEC.model_dump(mode="json") | {"of_a_later_release": 1}
        session.execute(update(Job).where(Job.id == unknown).values(spec=spec))
    assert [claim.job_id for claim in started(sessions, 1)] == [known]
    assert claim_next(sessions) is None
    with transaction(sessions) as session:
        assert session.scalar(select(Job.state).where(Job.id == unknown)) == "queued"
        # Workers are not told of it again and again.
        assert QueueRepository(session).claimable(10) == {"default": []}


def test_workers_are_told_of_each_class_that_jobs_wait_for(sessions: Sessions) -> None:
    by_class = {name: submit(sessions, ALPHA, 3, gpu_class=name) for name in ("a100", "default", "h100")}
    started(sessions, 1)
    with transaction(sessions) as session:
        assert QueueRepository(session).claimable(2) == {
            "a100": by_class["a100"][:2],
            "default": by_class["default"][1:],
            "h100": by_class["h100"][:2],
        }


def test_a_priority_is_stored_only_where_there_is_one(sessions: Sessions) -> None:
    """A worker of the release before reads the others."""
    (plain,), (high,) = submit(sessions, "default"), submit(sessions, "default", priority=5)
    assert "priority" not in row(sessions, plain).spec
    assert row(sessions, high).spec["priority"] == 5
