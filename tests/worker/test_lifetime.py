"""A worker ends when it had no job for as long as it may, or has run as many as it may, and never during a job."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from worker.lifetime import Lifetime


@pytest.fixture
def ended() -> Iterator[threading.Event]:
    """Set when this process gets SIGTERM."""
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    yield event
    signal.signal(signal.SIGTERM, before)


def test_hints_without_a_job_do_not_keep_a_worker_alive(ended: threading.Event) -> None:
    lifetime = Lifetime(idle_seconds=0.5, max_jobs=None)
    lifetime.start()
    give_up = time.monotonic() + 5
    while not ended.is_set() and time.monotonic() < give_up:
        lifetime.run(lambda: False)
        time.sleep(0.05)
    assert ended.is_set()


def test_idleness_begins_after_a_job(ended: threading.Event) -> None:
    def job() -> bool:
        time.sleep(0.6)
        assert not ended.is_set()
        return True

    lifetime = Lifetime(idle_seconds=0.3, max_jobs=None)
    lifetime.start()
    lifetime.run(job)
    assert not ended.wait(0.1)
    assert ended.wait(5)


def test_only_jobs_count_and_the_last_one_that_is_allowed_ends_the_worker(ended: threading.Event) -> None:
    lifetime = Lifetime(idle_seconds=None, max_jobs=2)
    lifetime.start()
    for ran in (True, False, False, True):
        assert not ended.is_set()
        lifetime.run(lambda ran=ran: ran)
    assert ended.wait(5)
