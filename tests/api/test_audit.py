"""Who did what: every change and every download is written down, and what was refused is not."""

from collections.abc import Callable

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.keys import Scope
from jobs.settings import Settings
from tests.api.conftest import SPEC
from tests.api.keyed import key_id_of, make_key, with_keys


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
