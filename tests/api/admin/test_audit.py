"""Who did what: every change and every download is written down, and what was refused is not."""

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import text, update
from sqlalchemy.orm import Session, sessionmaker

from api.app import make_app
from api.audit import action_of
from jobs.artifacts import ArtifactStore
from jobs.clock import later
from jobs.database import transaction
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from jobs.tables import AuditEvent
from tests.api.conftest import SPEC
from tests.api.keyed import key_id_of, make_key, with_keys
from worker.upkeep.cleanup import Sweeper


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings)


def test_changes_and_downloads_are_written_down(
    client: httpx.Client, sessions: sessionmaker[Session], finish: Callable[[str], None]
) -> None:
    team = make_key(sessions, "vision", Scope.JOBS_READ, Scope.JOBS_WRITE)
    admin = make_key(sessions, "operators", Scope.ADMIN)
    first, second = (client.post("/v1/jobs", json=SPEC, headers=team).json()["id"] for _ in range(2))
    finish(first)
    client.post(f"/v1/jobs/{second}/cancel", headers=team)
    client.get(f"/v1/jobs/{first}", headers=team)
    client.get(f"/v1/jobs/{first}/artifacts", headers=team)
    client.get(f"/v1/jobs/{first}/artifacts/model/config.json", headers=team)
    client.get(f"/v1/jobs/{first}/artifacts.tar", headers=team)
    client.get(f"/v1/jobs/{first}/artifacts/none", headers=team)
    client.post("/v1/jobs", json={}, headers=team)
    client.post(f"/v1/jobs/{first}/cancel", headers=team)
    client.post("/v1/jobs", json=SPEC)
    client.delete(f"/v1/admin/keys/{key_id_of(team)}", headers=admin)
    events = client.get("/v1/admin/audit-events", headers=admin).json()["data"]
    assert [(e["tenant"], e["key_id"], e["action"], e["subject"]) for e in reversed(events)] == [
        ("vision", key_id_of(team), "POST /v1/jobs", first),
        ("vision", key_id_of(team), "POST /v1/jobs", second),
        ("vision", key_id_of(team), "POST /v1/jobs/{job_id}/cancel", second),
        ("vision", key_id_of(team), "GET /v1/jobs/{job_id}/artifacts/{name:path}", first),
        ("vision", key_id_of(team), "GET /v1/jobs/{job_id}/artifacts.tar", first),
        ("operators", key_id_of(admin), "DELETE /v1/admin/keys/{key_id}", key_id_of(team)),
    ]
    assert {e["address"] for e in events} == {"127.0.0.1"}

    def ask(**query: object) -> dict:
        return client.get("/v1/admin/audit-events", params=query, headers=admin).json()

    page = ask(limit=4)
    assert page["data"] + ask(after=page["next_cursor"])["data"] == events
    assert ask(tenant="operators")["data"] == events[:1]
    assert ask(subject=second)["data"] == events[3:5]


def test_an_action_that_cannot_be_written_down_is_not_done(
    client: httpx.Client, sessions: sessionmaker[Session], finish: Callable[[str], None]
) -> None:
    team = make_key(sessions, "vision", Scope.JOBS_READ, Scope.JOBS_WRITE)
    waiting, over = (client.post("/v1/jobs", json=SPEC, headers=team).json()["id"] for _ in range(2))
    finish(over)
    # The server ends the connection of an error that nobody foresaw.
    team |= {"Connection": "close"}
    with transaction(sessions) as session:
        session.execute(text("ALTER TABLE audit_events RENAME TO elsewhere"))
    refused = [
        client.post("/v1/jobs", json=SPEC, headers=team | {"Idempotency-Key": "once"}),
        client.post(f"/v1/jobs/{waiting}/cancel", headers=team),
        client.delete(f"/v1/jobs/{over}", headers=team),
        client.get(f"/v1/jobs/{over}/artifacts.tar", headers=team),
        client.post("/v1/webhook-endpoints", json={"url": "https://example.com/"}, headers=team),
    ]
    assert [answer.status_code // 100 for answer in refused] == [5] * len(refused)
    assert all(answer.headers["X-Request-Id"].startswith("req_") for answer in refused)
    states = {job["id"]: job["status"] for job in client.get("/v1/jobs", headers=team).json()["data"]}
    assert states == {waiting: "queued", over: "succeeded"}
    assert client.get("/v1/webhook-endpoints", headers=team).json()["data"] == []
    with transaction(sessions) as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO audit_events"))
    again = client.post("/v1/jobs", json=SPEC, headers=team | {"Idempotency-Key": "once"})
    assert "Idempotent-Replayed" not in again.headers


def test_every_route_that_changes_something_notes_it(settings: Settings) -> None:
    """Also one that was added yesterday: such a route must ask for its `Action`."""
    app = make_app(settings)
    operations = [(method, path) for path, methods in app.openapi()["paths"].items() for method in methods]
    changing = {(method.upper(), path) for method, path in operations if method != "get"}
    included = [
        route for part in app.routes if hasattr(part, "original_router") for route in part.original_router.routes
    ]
    noting = {
        (method, route.path)
        for route in included
        if action_of in {each.call for each in route.dependant.dependencies}
        for method in route.methods
    }
    assert changing - noting == set()
    assert {path for method, path in noting if method == "GET"} == {
        "/v1/jobs/{job_id}/artifacts/{name:path}",
        "/v1/jobs/{job_id}/artifacts.tar",
    }


@pytest.mark.parametrize("sent_id", ["deploy-17.3", "a" * 65, "two words", "", None])
def test_a_request_id_is_taken_over_or_made_and_noted(
    client: httpx.Client, sessions: sessionmaker[Session], sent_id: str | None
) -> None:
    header = make_key(sessions, "vision", Scope.JOBS_READ, Scope.JOBS_WRITE)
    admin = make_key(sessions, "operators", Scope.ADMIN)
    header |= {} if sent_id is None else {"X-Request-Id": sent_id}
    answer = client.post("/v1/jobs", json=SPEC, headers=header)
    answered_id = answer.headers["X-Request-Id"]
    assert answered_id == sent_id if sent_id == "deploy-17.3" else answered_id.startswith("req_")
    (event,) = client.get("/v1/admin/audit-events", params={"tenant": "vision"}, headers=admin).json()["data"]
    assert event["request_id"] == answered_id
    refused = client.get("/v1/nowhere", headers=header)
    assert refused.status_code == 404
    assert "X-Request-Id" in refused.headers


def test_old_events_are_forgotten_after_their_time(
    client: httpx.Client, sessions: sessionmaker[Session], store: ArtifactStore
) -> None:
    team = make_key(sessions, "vision", Scope.JOBS_READ, Scope.JOBS_WRITE)
    admin = make_key(sessions, "operators", Scope.ADMIN)
    old, new = (client.post("/v1/jobs", json=SPEC, headers=team).json()["id"] for _ in range(2))
    with transaction(sessions) as session:
        session.execute(update(AuditEvent).where(AuditEvent.subject == old).values(created_at=later(-10 * 86400)))
    for days, left in ((0, [new, old]), (11, [new, old]), (9, [new])):
        Sweeper(sessions, store, Settings(audit_retention_days=days)).forget_audit_events()
        events = client.get("/v1/admin/audit-events", headers=admin).json()["data"]
        assert [event["subject"] for event in events] == left
