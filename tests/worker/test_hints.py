"""How workers learn that jobs wait, over both brokers: never by more messages than are useful, and never not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import open_store
from jobs.database import make_engine, make_sessions, migrate, transaction
from jobs.repository import ClaimRepository, JobRepository
from jobs.settings import Settings
from jobs.spec import JobSpec
from worker import scheduler
from worker.celery_app import make_app, queue_of
from worker.scheduler import Scheduler

SPEC = JobSpec.model_validate({"mode": "analyze", "model": {"uri": "hf://org/name"}})
CLASS = "hints"


@pytest.fixture(params=["redis", "folder"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else f"filesystem://{tmp_path / 'broker'}"
    database = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(database)
    return Settings(broker_url=url, database_url=database, artifact_url=(tmp_path / "artifacts").as_uri())


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(settings)
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def celery(settings: Settings) -> Iterator[Celery]:
    app = make_app(settings)
    yield app
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge(queue_of(CLASS))
    app.close()


def submit(sessions: sessionmaker[Session], count: int) -> None:
    for _ in range(count):
        with transaction(sessions) as session:
            JobRepository(session).submit("default", SPEC.model_copy(update={"gpu_class": CLASS}), max_attempts=3)


def messages(celery: Celery) -> int:
    with celery.connection_for_write() as connection:
        count: int = connection.default_channel.queue_declare(queue=queue_of(CLASS)).message_count
        return count


def receive(celery: Celery) -> None:
    """As a worker that dies with the message in its hands."""
    with celery.connection_for_write() as connection:
        assert connection.default_channel.basic_get(queue_of(CLASS), no_ack=True) is not None


def test_there_is_a_message_for_each_job_that_waits_and_a_lost_one_comes_again(
    settings: Settings, sessions: sessionmaker[Session], celery: Celery
) -> None:
    schedulers = [Scheduler(settings, sessions, open_store(settings), celery) for _ in range(2)]
    submit(sessions, 3)
    for each in schedulers:
        each.run_once()
    assert messages(celery) == 3
    receive(celery)
    schedulers[0].run_once()
    assert messages(celery) == 3
    with transaction(sessions) as session:
        assert ClaimRepository(session).claim_next(worker="w", gpu_class=CLASS, lease_seconds=60)
    for _ in range(2):
        receive(celery)
    schedulers[1].run_once()
    assert messages(celery) == 2


def test_there_are_no_more_messages_than_workers_could_take_soon(
    settings: Settings, sessions: sessionmaker[Session], celery: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "MOST_WAITING_HINTS", 5)
    submit(sessions, 8)
    for _ in range(3):
        Scheduler(settings, sessions, open_store(settings), celery).run_once()
    assert messages(celery) == 5
