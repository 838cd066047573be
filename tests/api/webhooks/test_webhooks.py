"""Webhook endpoints over HTTP: who sees what, and which addresses are refused at once."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, select

from jobs.repository import MOST_ENDPOINTS
from jobs.settings import Settings
from jobs.tables import WebhookEndpoint
from tests.api.conftest import serving
from tests.services.postgresql import PostgreSQL

URL = "https://example.com/hook"


def create(client: httpx.Client, **more: object) -> dict[str, object]:
    answer = client.post("/v1/webhook-endpoints", json={"url": URL, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_an_endpoints_secret_is_shown_once(client: httpx.Client) -> None:
    made = create(client)
    assert str(made["secret"]).startswith("whsec_")
    path = f"/v1/webhook-endpoints/{made['id']}"
    seen = client.get(path)
    assert seen.json() == {name: value for name, value in made.items() if name != "secret"}
    assert client.get("/v1/webhook-endpoints").json()["data"] == [seen.json()]
    rotated = client.post(f"{path}/rotate-secret").json()
    assert rotated["secret"] != made["secret"]
    assert (seen.json()["enabled"], seen.json()["event_types"]) == (
        True,
        ["job.succeeded", "job.failed", "job.cancelled"],
    )


def test_an_endpoint_can_be_changed_and_deleted(client: httpx.Client) -> None:
    path = f"/v1/webhook-endpoints/{create(client, event_types=['job.failed'])['id']}"
    off = client.patch(path, json={"enabled": False}).json()
    assert (off["enabled"], off["disabled_reason"], off["event_types"]) == (False, "switched off", ["job.failed"])
    on = client.patch(path, json={"enabled": True, "event_types": ["job.succeeded"]}).json()
    assert (on["enabled"], on["disabled_reason"], on["event_types"]) == (True, None, ["job.succeeded"])
    assert client.delete(path).status_code == 204
    for answer in (
        client.get(path),
        client.delete(path),
        client.patch(path, json={}),
        client.get(f"{path}/deliveries"),
    ):
        assert answer.status_code == 404


def test_a_tenant_has_so_many_endpoints_and_no_more(client: httpx.Client) -> None:
    made = [create(client)["id"] for _ in range(MOST_ENDPOINTS)]
    refused = client.post("/v1/webhook-endpoints", json={"url": URL})
    assert (refused.status_code, str(MOST_ENDPOINTS) in refused.json()["detail"]) == (409, True)
    assert client.delete(f"/v1/webhook-endpoints/{made[0]}").status_code == 204
    create(client)


def test_deliveries_are_listed_and_sent_again(client: httpx.Client) -> None:
    endpoint = create(client)
    spec = {"mode": "analyze", "model": {"uri": "hf://org/name"}}
    job_id = client.post("/v1/jobs", json=spec).json()["id"]
    client.post(f"/v1/jobs/{job_id}/cancel")
    (row,) = client.get(f"/v1/webhook-endpoints/{endpoint['id']}/deliveries").json()["data"]
    assert (row["job_id"], row["event_type"], row["attempts"], row["delivered_at"]) == (
        job_id,
        "job.cancelled",
        0,
        None,
    )
    again = client.post(f"/v1/webhook-deliveries/{row['id']}/redeliver")
    assert (again.status_code, again.json()["id"]) == (202, row["id"])
    assert client.post(f"/v1/webhook-deliveries/msg_{'0' * 26}/redeliver").status_code == 404


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "ftp://example.com/", "https://", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/",
     "https://192.0.0.192/", "https://168.63.129.16/", "https://0xa83f8110/", "https://[64:ff9b::a83f:8110]/",
     "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest", "https://user:pw@example.com/", "https://a b/",
     "https://example.com/#x", "https://[::1", "https://example.com:99999/", "https://example.com/\n", "x", "",
     "https://ex\u00e4mple.com/", "https://example.com/\u00e4"],
)  # fmt: skip
def test_an_address_that_could_never_be_told_is_refused(client: httpx.Client, url: str) -> None:
    answer = client.post("/v1/webhook-endpoints", json={"url": url})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/url")
    assert client.get("/v1/webhook-endpoints").json() == {"data": []}


def test_secrets_lie_sealed_in_the_database(client: httpx.Client, database_url: str) -> None:
    made = create(client)
    rotated = client.post(f"/v1/webhook-endpoints/{made['id']}/rotate-secret").json()
    engine = create_engine(database_url)
    with engine.connect() as connection:
        row = connection.execute(select(WebhookEndpoint.secret, WebhookEndpoint.previous_secret)).one()
    engine.dispose()
    for secret in (made["secret"], rotated["secret"]):
        assert str(secret).removeprefix("whsec_") not in str(row)


def test_over_postgresql_without_a_key_there_are_no_webhooks(postgresql_server: PostgreSQL, tmp_path: Path) -> None:
    keyless = Settings(database_url=postgresql_server.database(), artifact_url=tmp_path.as_uri())
    with serving(keyless) as client:
        answer = client.post("/v1/webhook-endpoints", json={"url": URL})
        assert (answer.status_code, "SGLP_SECRET_KEYS" in answer.json()["detail"]) == (503, True)
        assert client.get("/v1/webhook-endpoints").json() == {"data": []}


@pytest.mark.parametrize("more", [{"event_types": []}, {"event_types": ["job.queued"]}, {"colour": 1}])
def test_what_is_not_understood_is_refused(client: httpx.Client, more: dict[str, object]) -> None:
    assert client.post("/v1/webhook-endpoints", json={"url": URL, **more}).status_code == 422
