"""PostgreSQL that hangs: connections stay open and nothing ever comes. Nobody waits for it for ever."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.services.postgresql import PostgreSQL
from tests.services.processes import stopped
from tests.services.s3 import S3
from tests.services.stack import Stack, running_stack
from tests.worker.tiny_model import tiny_spec

DATABASE_SECONDS = 1.0
# One statement times out, and then one new connection.
ANSWER_SECONDS = 15
# More than the API has threads for requests, or connections.
AT_ONCE = 50


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models: Path, postgresql_server: PostgreSQL, redis_url: str, s3_server: S3
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(
        directory,
        database_url=postgresql_server.database(),
        database_timeout_seconds=DATABASE_SECONDS,
        broker_url=redis_url,
        artifact_url=f"{s3_server.url}/{directory.name}",
        artifact_options=s3_server.options,
        model_roots=[str(models)],
        # Longer than the database hangs.
        lease_seconds=60,
    ) as running:
        yield running


def timed(url: str) -> tuple[float, httpx.Response]:
    started = time.monotonic()
    answer = httpx.get(url, timeout=60)
    return time.monotonic() - started, answer


def test_requests_are_answered_in_time_and_workers_go_on_afterwards(
    stack: Stack, models: Path, postgresql_server: PostgreSQL
) -> None:
    service = f"http://127.0.0.1:{stack.port}"
    stack.start_worker()
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt"))["id"]
    stack.wait_for(job_id, lambda job: job["phase"] is not None)
    with ThreadPoolExecutor(AT_ONCE) as pool, stopped(postgresql_server.processes):
        asked = [pool.submit(timed, f"{service}/v1/jobs") for _ in range(AT_ONCE)]
        time.sleep(0.5)
        alive, ready = timed(f"{service}/livez"), timed(f"{service}/readyz")
        answers = [each.result() for each in asked]
        assert (alive[1].status_code, alive[0] < 2) == (200, True)
        assert (ready[1].status_code, ready[1].json()["detail"]) == (503, "the database does not answer; try again")
        assert ready[0] < 5
        assert {answer.status_code for _, answer in answers} == {503}
        assert {answer.headers["Content-Type"] for _, answer in answers} == {"application/problem+json"}
        assert max(seconds for seconds, _ in answers) < ANSWER_SECONDS
    assert timed(f"{service}/readyz")[1].status_code == 200
    job = stack.wait_for_end(job_id)
    assert (job["status"], job["attempt"]) == ("succeeded", 1), stack.logs()
    assert stack.event_types(job_id).count("running") == 1
