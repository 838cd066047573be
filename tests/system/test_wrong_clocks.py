"""Machines whose clocks are hours off: leases, deadlines and webhooks go by the database's."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select
from standardwebhooks import Webhook

from jobs.database import make_engine
from tests.services.clocks import set_clock
from tests.services.postgresql import PostgreSQL
from tests.services.receiver import Receiver, receiver
from tests.services.s3 import S3
from tests.services.stack import LEASE_SECONDS, Stack, running_stack
from tests.worker.tiny_model import tiny_spec

SLACK_SECONDS = 5
HOUR_SECONDS = 3600
TROUBLE_SECONDS = 30


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models: Path, postgresql_server: PostgreSQL, redis_url: str
) -> Iterator[Stack]:
    """An API that is behind, and a scheduler with it."""
    directory = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        set_clock(patch, -6)
        with running_stack(
            directory,
            database_url=postgresql_server.database(),
            broker_url=redis_url,
            artifact_url=(directory / "artifacts").as_uri(),
            model_roots=[str(models)],
            egress_allowed_networks=["127.0.0.0/8"],
        ) as running:
            yield running


@pytest.fixture(autouse=True)
def no_worker_is_left(stack: Stack) -> Iterator[None]:
    yield
    stack.end_workers()


def test_leases_and_deadlines_go_by_the_databases_clock(
    stack: Stack, models: Path, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = httpx.post(f"http://127.0.0.1:{stack.port}/v1/webhook-endpoints", json={"url": hook.url}).json()
    set_clock(monkeypatch, +5)
    ahead = stack.start_worker()
    spec = tiny_spec(models / "model", models / "text.txt", deadline_seconds=HOUR_SECONDS)
    job_id = stack.client.submit(spec)["id"]
    job = stack.wait_for(job_id, lambda job: job["phase"] == "evaluating")
    # For longer than a lease it was neither taken from the worker nor ended by its deadline.
    with make_engine(stack.read_settings()).connect() as connection:
        now: datetime = connection.scalars(select(func.now())).one()
    assert now - datetime.fromisoformat(job["started_at"]) > timedelta(seconds=LEASE_SECONDS)
    assert now - datetime.fromisoformat(job["created_at"]) < timedelta(minutes=5)
    assert (job["status"], job["attempt"]) == ("running", 1)
    ahead.kill()
    killed = time.monotonic()
    set_clock(monkeypatch, -4)
    stack.start_worker()
    stack.wait_for(job_id, lambda job: job["attempt"] == 2)
    assert time.monotonic() - killed < 2 * LEASE_SECONDS + SLACK_SECONDS
    assert stack.wait_for_end(job_id)["status"] == "succeeded", stack.logs()
    while not hook.received:
        time.sleep(0.1)
    headers, body = hook.received[0]
    # The receiver refuses what was signed more than five minutes ago, or will be.
    assert Webhook(endpoint["secret"]).verify(body, headers)["type"] == "job.succeeded"


def test_a_store_that_refuses_a_wrong_clock_is_told_of_it(
    stack: Stack, models: Path, s3_server: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signatures of S3 hold for a quarter of an hour: there a worker's clock does matter."""
    set_clock(monkeypatch, +5)
    stack.start_worker(artifact_url=f"{s3_server.url}/clocks", artifact_options=s3_server.options)
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt", mode="estimate"))["id"]
    ready = f"http://127.0.0.1:{stack.port}/readyz"
    give_up = time.monotonic() + TROUBLE_SECONDS
    while not (trouble := httpx.get(ready).json()["troubles"].get("artifact store")):
        assert time.monotonic() < give_up, stack.logs()
        time.sleep(0.2)
    assert "clock" in trouble
    # Its work would be lost.
    assert stack.client.get(job_id)["status"] == "queued"
    stack.client.cancel(job_id)
