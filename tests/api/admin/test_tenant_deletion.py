"""Deleting a tenant over HTTP: at once for whoever acts in its name, and step by step for what it has."""

import time
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.conftest import SPEC
from tests.api.keyed import assert_problem, make_key, with_keys
from worker.upkeep.tenant_removal import TenantRemoval

BOTH = (Scope.JOBS_READ, Scope.JOBS_WRITE)
GOES = "/v1/admin/tenants/goes"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings)


def test_a_tenant_is_refused_then_emptied_then_gone(
    client: httpx.Client, sessions: sessionmaker[Session], store: ArtifactStore, finish: Callable[[str], None]
) -> None:
    admin, key = make_key(sessions, "operators", Scope.ADMIN), make_key(sessions, "goes", *BOTH)
    job_id = client.post("/v1/jobs", json=SPEC, headers=key).json()["id"]
    finish(job_id)
    client.post("/v1/jobs", json=SPEC, headers=key)
    assert client.get(GOES, headers=admin).json()["deletion"] is None

    begun = client.delete(GOES, headers=admin)
    assert begun.status_code == 202
    left = begun.json()["deletion"]
    assert {name: left[name] for name in left if name != "requested_at"} == {
        "unfinished_jobs": 1,
        "ended_jobs": 1,
        "deleted_jobs": 0,
        "uploads": 0,
    }
    time.sleep(1)
    assert_problem(client.get(f"/v1/jobs/{job_id}", headers=key), 401)
    new_key = {"tenant": "goes", "name": "more", "scopes": ["jobs:read"]}
    assert_problem(client.post("/v1/admin/keys", json=new_key, headers=admin), 409)
    assert_problem(client.post("/v1/admin/tenants", json={"name": "goes"}, headers=admin), 409)
    again = client.delete(GOES, headers=admin)
    assert again.json()["deletion"]["requested_at"] == left["requested_at"]
    (listed,) = [row for row in client.get("/v1/admin/tenants", headers=admin).json()["data"] if row["deletion"]]
    assert listed == client.get(GOES, headers=admin).json()

    TenantRemoval(sessions, store, Settings(sweep_after_seconds=1e-9)).remove_tenants()
    assert_problem(client.get(GOES, headers=admin), 404)
    assert_problem(client.delete(GOES, headers=admin), 404)
    assert store.list("jobs/") == []
    trail = client.get("/v1/admin/audit-events", params={"subject": "goes"}, headers=admin).json()["data"]
    assert [event["action"] for event in trail] == ["tenant removed", *["DELETE /v1/admin/tenants/{name}"] * 2]
    assert client.post("/v1/admin/tenants", json={"name": "goes"}, headers=admin).status_code == 201


def test_nobody_deletes_the_tenant_that_its_own_key_is_of(
    client: httpx.Client, sessions: sessionmaker[Session]
) -> None:
    admin = make_key(sessions, "operators", Scope.ADMIN)
    assert_problem(client.delete("/v1/admin/tenants/operators", headers=admin), 409)
    assert client.get("/v1/admin/tenants", headers=admin).status_code == 200
