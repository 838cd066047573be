"""Numbers that only grow, on both databases: each thing that is committed counts once."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.database import transaction
from jobs.progress import PHASES
from jobs.repository import ClaimRepository, DeliveryRepository, OverviewRepository, WebhookRepository
from jobs.repository import counters as names
from jobs.repository.counters import increment
from tests.jobs.repository.lives import LEASE_SECONDS, Sessions, cancel, claim, pass_time, submit, upkeep


def counted(sessions: Sessions) -> dict[str, dict[str, float]]:
    with transaction(sessions) as session:
        return OverviewRepository(session).counters()


def test_what_is_rolled_back_does_not_count(sessions: Sessions) -> None:
    def fail() -> None:
        with transaction(sessions) as session:
            increment(session, names.FENCED_WRITES, "end")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert counted(sessions) == {}


def test_of_many_transactions_at_once_none_is_lost_and_none_waits_in_a_circle(sessions: Sessions) -> None:
    labels = ["a", "b", "c"]

    def count(number: int) -> None:
        with transaction(sessions) as session:
            for label in labels if number % 2 else reversed(labels):
                increment(session, names.FENCED_WRITES, label)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    assert counted(sessions) == {names.FENCED_WRITES: dict.fromkeys(labels, 40)}


def test_leases_that_run_out_and_ends_count(sessions: Sessions) -> None:
    job_id = submit(sessions, max_attempts=2)
    for _ in range(2):
        assert claim(sessions, job_id) is not None
        pass_time(sessions, job_id, LEASE_SECONDS + 1)
        upkeep(sessions, lambda duties: duties.reap(10, backoff_seconds=0))
    cancel(sessions, submit(sessions))
    values = counted(sessions)
    assert values[names.LEASES_EXPIRED] == {"queued": 1, "failed": 1}
    assert values[names.JOBS_ENDED] == {"failed": 1, "cancelled": 1}


def test_phases_fall_between_the_bounds(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        ClaimRepository(session).count_phases([("measuring", 0.5), ("measuring", 60), ("measuring", 1e9)])
    values = counted(sessions)
    assert values[names.PHASE_SECONDS] == {"measuring": pytest.approx(60.5 + 1e9)}
    assert values[names.PHASE_BUCKETS] == {"measuring 1": 1, "measuring 60": 1, "measuring inf": 1}


def test_phases_that_a_job_makes_up_are_one(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        ClaimRepository(session).count_phases([(f"phase-{number}", 0.5) for number in range(300)])
    values = counted(sessions)
    assert (values[names.PHASE_SECONDS], values[names.PHASE_BUCKETS]) == ({"other": 150}, {"other 1": 300})


def test_every_phase_of_the_method_is_known() -> None:
    sources = "".join(file.read_text() for file in Path("sglp_core").rglob("*.py"))
    assert set(re.findall(r'\.phase\("(\w+)"\)', sources)) == PHASES


def test_tries_to_deliver_count_by_outcome(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        WebhookRepository(session).create("default", "https://example.com/", ["job.cancelled"], "sealed")
    cancel(sessions, submit(sessions))
    for outcome in ("failed", "delivered"):
        with transaction(sessions) as session:
            due = DeliveryRepository(session).take_due(lease_seconds=0)
            assert due is not None
            if outcome == "failed":
                DeliveryRepository(session).failed(due, 500, "answered 500", 0)
            else:
                DeliveryRepository(session).delivered(due, 200)
    assert counted(sessions)[names.WEBHOOK_ATTEMPTS] == {"failed": 1, "delivered": 1}
