"""Quotas hold, however many ask at once, and only for the tenant that has them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.clock import later
from jobs.database import transaction
from jobs.repository import Quotas, TenantRepository
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from jobs.tables import Artifact
from tests.api.conftest import FILES, SPEC, serving
from tests.api.keyed import assert_problem, make_key, with_keys
from worker.upkeep.cleanup import Sweeper

Sessions = sessionmaker[Session]
BOTH = (Scope.JOBS_READ, Scope.JOBS_WRITE)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings)


def limit(sessions: Sessions, tenant: str, **quotas: int) -> None:
    with transaction(sessions) as session:
        TenantRepository(session).set_quotas(tenant, Quotas(**quotas))


def told(response: httpx.Response) -> dict[str, Any]:
    assert_problem(response, 429)
    assert int(response.headers["Retry-After"]) > 0
    return {name: response.json()[name] for name in ("code", "quota", "limit", "use")}


def test_of_fifty_submissions_at_once_exactly_as_many_wait_as_may(client: httpx.Client, sessions: Sessions) -> None:
    key, other = make_key(sessions, "many", *BOTH), make_key(sessions, "other", *BOTH)
    limit(sessions, "many", queued_jobs=5)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=SPEC, headers=key), range(50)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert (len(accepted), len(refused)) == (5, 45)
    exceeded = {"code": "quota_exceeded", "quota": "queued_jobs", "limit": 5, "use": 5}
    assert [told(answer) for answer in refused] == [exceeded] * 45
    assert len(client.get("/v1/jobs", headers=key).json()["data"]) == 5
    assert client.post("/v1/jobs", json=SPEC, headers=other).status_code == 202
    client.post(f"/v1/jobs/{accepted[0].json()['id']}/cancel", headers=key)
    assert client.post("/v1/jobs", json=SPEC, headers=key).status_code == 202


def test_where_a_quota_says_nothing_the_service_has_one(settings: Settings, sessions: Sessions) -> None:
    keys = [make_key(sessions, tenant, *BOTH) for tenant in ("none", "bytes", "more")]
    limit(sessions, "bytes", stored_bytes=1000)
    limit(sessions, "more", queued_jobs=4)
    with serving(settings.model_copy(update={"tenant_max_queued_jobs": 3})) as client:
        answers = [[client.post("/v1/jobs", json=SPEC, headers=key) for _ in range(5)] for key in keys]
        assert [[each.status_code for each in some].count(202) for some in answers] == [3, 3, 4]
        exceeded = {"code": "quota_exceeded", "quota": "queued_jobs", "limit": 3, "use": 3}
        assert [told(answers[0][-1]), told(answers[1][-1])] == [exceeded] * 2
        client.post(f"/v1/jobs/{answers[0][0].json()['id']}/cancel", headers=keys[0])
        assert client.post("/v1/jobs", json=SPEC, headers=keys[0]).status_code == 202


def test_who_has_stored_enough_submits_no_more(
    client: httpx.Client, sessions: Sessions, finish: Callable[[str], None]
) -> None:
    key = make_key(sessions, "full", *BOTH)
    size_bytes = sum(map(len, FILES.values()))
    limit(sessions, "full", stored_bytes=size_bytes)
    finish(client.post("/v1/jobs", json=SPEC, headers=key).json()["id"])
    exceeded = {"code": "quota_exceeded", "quota": "stored_bytes", "limit": size_bytes, "use": size_bytes}
    assert told(client.post("/v1/jobs", json=SPEC, headers=key)) == exceeded
    limit(sessions, "full", stored_bytes=size_bytes + 1)
    assert client.post("/v1/jobs", json=SPEC, headers=key).status_code == 202


def test_files_that_are_gone_are_not_counted(
    client: httpx.Client, sessions: Sessions, store: ArtifactStore, finish_for: Callable[[str, float], None]
) -> None:
    key = make_key(sessions, "full", *BOTH)
    limit(sessions, "full", stored_bytes=1)
    finish_for(client.post("/v1/jobs", json=SPEC, headers=key).json()["id"], 1)
    assert client.post("/v1/jobs", json=SPEC, headers=key).status_code == 429
    with transaction(sessions) as session:
        session.execute(update(Artifact).values(expires_at=later(-1)))
    Sweeper(sessions, store, Settings()).remove_expired()
    assert client.post("/v1/jobs", json=SPEC, headers=key).status_code == 202


def test_an_administrator_sets_quotas_and_takes_them_away(client: httpx.Client, sessions: Sessions) -> None:
    admin, key = make_key(sessions, "operators", Scope.ADMIN), make_key(sessions, "vision", *BOTH)
    put = client.put("/v1/admin/tenants/vision/quotas", json={"queued_jobs": 0}, headers=admin)
    assert put.json()["quotas"] == {"queued_jobs": 0, "running_jobs": None, "stored_bytes": None, "weight": 1.0}
    assert told(client.post("/v1/jobs", json=SPEC, headers=key))["limit"] == 0
    client.put("/v1/admin/tenants/vision/quotas", json={}, headers=admin)
    assert client.post("/v1/jobs", json=SPEC, headers=key).status_code == 202
