"""`sglp webhooks` against the real API, and a sender that delivers what it has arranged."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

from jobs.database import make_engine, make_sessions, migrate
from jobs.security.signing_secrets import make_sealer
from jobs.settings import Settings
from tests.api.conftest import serving
from tests.services.receiver import receiver
from worker.upkeep.webhook_delivery import WebhookSender

SGLP_COMMAND = [sys.executable, "-c", "from sglp_client.cli.app import app; app()", "webhooks"]
LOOPBACK = "127.0.0.0/8"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    return Settings(
        database_url=url, artifact_url=(tmp_path / "artifacts").as_uri(), egress_allowed_networks=(LOOPBACK,)
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with serving(settings) as client:
        yield client


@pytest.fixture
def sender(settings: Settings) -> Iterator[WebhookSender]:
    engine = make_engine(settings)
    yield WebhookSender(make_sessions(engine), make_sealer(settings), [LOOPBACK])
    engine.dispose()


def run(client: httpx.Client, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SGLP_URL": str(client.base_url), "COLUMNS": "240"}
    return subprocess.run([*SGLP_COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)


def printed(client: httpx.Client, *arguments: str) -> str:
    done = run(client, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def cancel_a_job(client: httpx.Client) -> str:
    job_id: str = client.post("/v1/jobs", json={"mode": "analyze", "model": {"uri": "hf://org/name"}}).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    return job_id


def test_what_the_commands_arrange_is_delivered_and_can_be_followed(
    client: httpx.Client, sender: WebhookSender
) -> None:
    with receiver() as hook:
        hook.answers = [500]
        endpoint_id, secret = printed(client, "create", hook.url, "--event", "job.cancelled").split()
        listed = printed(client, "list")
        assert endpoint_id in listed
        assert secret not in listed
        job_id = cancel_a_job(client)
        sender.deliver_due()
        log = printed(client, "deliveries", endpoint_id)
        assert job_id in log
        assert "answered 500; next try" in log
        new_secret = printed(client, "rotate", endpoint_id).strip()
        delivery_id = hook.received[0][0]["webhook-id"]
        assert delivery_id in log
        printed(client, "redeliver", delivery_id)
        sender.deliver_due()
        headers, body = hook.received[-1]
        assert headers["webhook-id"] == delivery_id
        for each in (secret, new_secret):
            assert Webhook(each).verify(body, headers)["data"]["id"] == job_id
        assert "delivered 20" in printed(client, "deliveries", endpoint_id, "--limit", "1")
        printed(client, "delete", endpoint_id)
        assert endpoint_id not in printed(client, "list")


def test_an_endpoint_has_every_event_unless_some_are_named(client: httpx.Client) -> None:
    printed(client, "create", "https://example.com/a")
    printed(client, "create", "https://example.com/b", "--event", "job.failed")
    every, one = client.get("/v1/webhook-endpoints").json()["data"]
    assert every["event_types"] == ["job.succeeded", "job.failed", "job.cancelled"]
    assert one["event_types"] == ["job.failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "ftp://example.com/"], "the url must be https or http://"),
        (["create", "https://example.com/", "--event", "job.queued"], "/event_types/0"),
        (["rotate", f"whe_{'0' * 26}"], "there is no webhook endpoint"),
        (["delete", "../jobs"], "there is nothing"),
        (["redeliver", f"msg_{'0' * 26}"], "there is no delivery"),
    ],
)
def test_what_is_refused_is_one_plain_message(client: httpx.Client, arguments: list[str], message: str) -> None:
    refused = run(client, *arguments)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert message in refused.stderr
