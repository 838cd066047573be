"""Redis that hangs or forgets, and hints that come again: a job runs once, and starts."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from tests.services.postgresql import PostgreSQL
from tests.services.processes import free_port, server_process, stopped
from tests.services.redis import redis_command
from tests.services.s3 import S3
from tests.services.stack import Stack, running_stack
from tests.worker.tiny_model import tiny_spec
from worker.celery_app import TASK, make_app, queue_of

HINTS = 20
QUEUE = queue_of("default")
# Two rounds of the scheduler's look at the broker, each with its own timeout.
NOTICED_SECONDS = 30


@pytest.fixture(scope="module")
def broker_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, broker_port: int) -> Iterator[psutil.Process]:
    """A Redis of this module's own, as its process."""
    directory = tmp_path_factory.mktemp("broker")
    with server_process(redis_command(broker_port, directory), broker_port, directory / "redis.log") as process:
        yield psutil.Process(process.pid)


@pytest.fixture(scope="module")
def redis(broker: psutil.Process, broker_port: int) -> Redis:
    return Redis(port=broker_port)


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models: Path, postgresql_server: PostgreSQL, broker: psutil.Process,
    broker_port: int, s3_server: S3,
) -> Iterator[Stack]:  # fmt: skip
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(
        directory,
        database_url=postgresql_server.database(),
        broker_url=f"redis://127.0.0.1:{broker_port}/0",
        artifact_url=f"{s3_server.url}/{directory.name}",
        artifact_options=s3_server.options,
        model_roots=[str(models)],
    ) as running:
        yield running


def submitted(stack: Stack, models: Path) -> str:
    return stack.client.submit(tiny_spec(models / "model", models / "text.txt", mode="estimate"))["id"]


def assert_ran_once(stack: Stack, job_id: str) -> None:
    job = stack.wait_for_end(job_id)
    kinds = stack.event_types(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), stack.logs()
    assert (kinds.count("running"), kinds.count("succeeded"), kinds.count("requeued")) == (1, 1, 0)


def wait_until(happened: Any, seconds: float = NOTICED_SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_a_hint_that_redis_forgot_is_sent_again(stack: Stack, models: Path, redis: Redis) -> None:
    job_id = submitted(stack, models)
    wait_until(lambda: redis.llen(QUEUE) > 0)
    redis.flushall()
    assert redis.llen(QUEUE) == 0
    stack.start_worker()
    assert_ran_once(stack, job_id)


def test_a_hint_that_comes_many_times_starts_one_run(stack: Stack, models: Path, redis: Redis) -> None:
    stack.end_workers()
    job_id = submitted(stack, models)
    celery = make_app(stack.read_settings())
    with celery.connection_for_write() as connection, celery.amqp.Producer(connection) as producer:
        for _ in range(HINTS):
            celery.send_task(TASK, args=[job_id], queue=QUEUE, producer=producer)
    for _ in range(2):
        stack.start_worker()
    assert_ran_once(stack, job_id)
    wait_until(lambda: redis.llen(QUEUE) == 0)
    assert_ran_once(stack, job_id)


def test_jobs_are_taken_and_run_on_while_redis_hangs(stack: Stack, models: Path, broker: psutil.Process) -> None:
    def readiness() -> dict[str, Any]:
        return httpx.get(f"http://127.0.0.1:{stack.port}/readyz").json()

    stack.end_workers()
    stack.start_worker()
    running = submitted(stack, models)
    stack.wait_for(running, lambda job: job["status"] == "running")
    wait_until(lambda: "broker" not in readiness()["troubles"])
    with stopped([broker]):
        started = time.monotonic()
        waiting = submitted(stack, models)
        assert time.monotonic() - started < 2
        assert_ran_once(stack, running)
        # A worker that is at work asks the database for more, and needs no message.
        assert_ran_once(stack, waiting)
        wait_until(lambda: "broker" in readiness()["troubles"])
        idle = submitted(stack, models)
        time.sleep(1)
        assert stack.client.get(idle)["status"] == "queued"
    assert_ran_once(stack, idle)
    wait_until(lambda: "broker" not in readiness()["troubles"])
