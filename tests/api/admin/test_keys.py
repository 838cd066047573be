"""Which keys open the service, what for, and how they are made and revoked."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from sglp_client import SGLP
from sqlalchemy import Engine, event, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from jobs.tables import ApiKey
from tests.api.conftest import FILES, SPEC
from tests.api.keyed import assert_problem, key_id_of, key_of, make_key, with_keys

Sessions = sessionmaker[Session]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings)


def stored(sessions: Sessions, header: dict[str, str]) -> ApiKey:
    with transaction(sessions) as session:
        return session.scalars(select(ApiKey).where(ApiKey.id == key_id_of(header))).one()


def test_every_key_that_does_not_hold_gets_the_same_answer(client: httpx.Client, sessions: Sessions) -> None:
    good, expired, revoked = (make_key(sessions, "a", Scope.JOBS_READ) for _ in range(3))
    admin = make_key(sessions, "a", Scope.ADMIN)
    with transaction(sessions) as session:
        past = stored(sessions, expired).created_at - timedelta(seconds=1)
        session.execute(update(ApiKey).where(ApiKey.id == key_id_of(expired)).values(expires_at=past))
    assert client.delete(f"/v1/admin/keys/{key_id_of(revoked)}", headers=admin).status_code == 204
    unknown = f"sglp_{'0' * 26}_{'0' * 64}"
    wrong = key_of(good)[:-64] + "0" * 64
    headers = [
        expired,
        revoked,
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {key_of(good)}"},
        {"Authorization": key_of(good)},
    ]
    headers += [{"Authorization": f"Bearer {text}"} for text in (unknown, wrong, "sglp_x_y", key_of(good) + "0")]
    answers = [client.get("/v1/jobs", headers=header) for header in headers]
    for answer in answers:
        assert_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert len({answer.content for answer in answers}) == 1
    assert client.get("/v1/jobs", headers=good).status_code == 200
    assert client.get("/v1/jobs", headers={"Authorization": f"bearer  {key_of(good)}"}).status_code == 200


def test_a_key_that_was_just_used_is_refused_a_second_after_it_is_revoked(
    client: httpx.Client, sessions: Sessions
) -> None:
    key, admin = make_key(sessions, "a", Scope.JOBS_READ), make_key(sessions, "a", Scope.ADMIN)
    assert client.get("/v1/jobs", headers=key).status_code == 200
    assert client.delete(f"/v1/admin/keys/{key_id_of(key)}", headers=admin).status_code == 204
    wrong = {"Authorization": f"Bearer {key_of(key)[:-64]}{'0' * 64}"}
    assert_problem(client.get("/v1/jobs", headers=wrong), 401)
    time.sleep(1)
    assert_problem(client.get("/v1/jobs", headers=key), 401)


def test_a_second_with_many_requests_asks_the_database_once_for_a_key(client: httpx.Client, sessions: Sessions) -> None:
    key = make_key(sessions, "a", Scope.JOBS_READ)
    lookups: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "FROM api_keys" in statement:
            lookups.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        begin = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: client.get("/v1/jobs", headers=key).status_code, range(40)))
        seconds = time.monotonic() - begin
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert answers == [200] * 40
    assert 1 <= len(lookups) <= 1 + seconds


def test_a_body_is_not_read_before_the_key(client: httpx.Client) -> None:
    assert_problem(client.post("/v1/jobs", content=b"{"), 401)
    assert_problem(client.get("/nowhere"), 401)


def test_only_a_digest_of_the_secret_is_kept(sessions: Sessions) -> None:
    header = make_key(sessions, "a", Scope.JOBS_READ)
    row = stored(sessions, header)
    secret = key_of(header).rpartition("_")[2]
    assert (len(bytes.fromhex(secret)), len(row.secret_sha256)) == (32, 32)
    assert secret not in repr(vars(row))
    assert bytes.fromhex(secret) != row.secret_sha256


def test_the_last_use_is_written_at_most_once_a_minute(client: httpx.Client, sessions: Sessions) -> None:
    header = make_key(sessions, "a", Scope.JOBS_READ)
    assert stored(sessions, header).last_used_at is None
    seen = []
    for age in (0, 50, 61):
        if seen:
            time.sleep(1)
            aged = seen[0] - timedelta(seconds=age)
            with transaction(sessions) as session:
                session.execute(update(ApiKey).where(ApiKey.id == key_id_of(header)).values(last_used_at=aged))
        assert client.get("/v1/jobs", headers=header).status_code == 200
        seen.append(stored(sessions, header).last_used_at)
    assert seen[1] == seen[0] - timedelta(seconds=50)
    assert seen[2] >= seen[0]


def test_a_tenant_sees_its_own_jobs_only(client: httpx.Client, sessions: Sessions) -> None:
    ours, theirs = (make_key(sessions, name, Scope.JOBS_READ, Scope.JOBS_WRITE) for name in ("ours", "theirs"))
    job_id = client.post("/v1/jobs", json=SPEC, headers=ours).json()["id"]
    assert client.get(f"/v1/jobs/{job_id}", headers=ours).status_code == 200
    assert client.get(f"/v1/jobs/{job_id}", headers=theirs).status_code == 404
    assert client.get("/v1/jobs", headers=theirs).json()["data"] == []


def test_an_administrator_makes_a_tenant_and_a_key_that_works(client: httpx.Client, sessions: Sessions) -> None:
    admin = make_key(sessions, "operators", Scope.ADMIN)
    tenant = client.post("/v1/admin/tenants", json={"name": "vision"}, headers=admin)
    assert (tenant.status_code, tenant.json()["quotas"]["queued_jobs"]) == (201, None)
    assert client.get(tenant.headers["Location"], headers=admin).json() == tenant.json()
    new_key = {"tenant": "vision", "name": "nightly", "scopes": ["jobs:read"], "expires_in_seconds": 60}
    made = client.post("/v1/admin/keys", json=new_key, headers=admin)
    key = made.json()
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    assert re.fullmatch(r"sglp_[0-9a-z]{26}_[0-9a-f]{64}", key["key"])
    assert client.get("/v1/jobs", headers={"Authorization": f"Bearer {key['key']}"}).status_code == 200
    listed = client.get("/v1/admin/keys", params={"tenant": "vision"}, headers=admin)
    secret = key.pop("key").rpartition("_")[2]
    assert [{**row, "last_used_at": None} for row in listed.json()["data"]] == [key]
    assert secret not in listed.text


def test_keys_and_tenants_are_listed_page_by_page(client: httpx.Client, sessions: Sessions) -> None:
    admin = make_key(sessions, "a", Scope.ADMIN)
    ids = [key_id_of(make_key(sessions, f"t{i}", Scope.JOBS_READ)) for i in range(3)]
    first = client.get("/v1/admin/keys", params={"limit": 2}, headers=admin).json()
    second = client.get("/v1/admin/keys", params={"limit": 2, "after": first["next_cursor"]}, headers=admin).json()
    assert {row["id"] for row in first["data"] + second["data"]} == {*ids, key_id_of(admin)}
    assert (first["has_more"], second["has_more"]) == (True, False)
    first = client.get("/v1/admin/tenants", params={"limit": 4}, headers=admin).json()
    second = client.get("/v1/admin/tenants", params={"after": first["next_cursor"]}, headers=admin).json()
    assert [row["name"] for row in first["data"] + second["data"]] == ["a", "default", "t0", "t1", "t2"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("tenants", {"name": "Vision"}, 422),
        ("tenants", {"name": "x" * 64}, 422),
        ("tenants", {"name": "x", "quotas": {"queued_jobs": -1}}, 422),
        ("tenants", {"name": "x", "quotas": {"jobs": 1}}, 422),
        ("tenants", {"name": "default"}, 409),
        ("keys", {"tenant": "none", "name": "x", "scopes": ["admin"]}, 422),
        ("keys", {"tenant": "default", "name": "x", "scopes": []}, 422),
        ("keys", {"tenant": "default", "name": "x", "scopes": ["all"]}, 422),
        ("keys", {"tenant": "default", "name": "\0", "scopes": ["admin"]}, 422),
        ("keys", {"tenant": "default", "name": "x", "scopes": ["admin"], "expires_in_seconds": 0}, 422),
    ],
    ids=str,
)
def test_a_mistake_of_an_administrator_makes_nothing(
    client: httpx.Client, sessions: Sessions, path: str, body: dict, status: int
) -> None:
    admin = make_key(sessions, "a", Scope.ADMIN)
    before = client.get(f"/v1/admin/{path}", headers=admin).json()
    assert_problem(client.post(f"/v1/admin/{path}", json=body, headers=admin), status)
    now = client.get(f"/v1/admin/{path}", headers=admin).json()
    assert [{**row, "last_used_at": None} for row in now["data"]] == [
        {**row, "last_used_at": None} for row in before["data"]
    ]


@pytest.mark.parametrize("name", ["none", "%00"])
def test_what_is_not_there_is_not_found(client: httpx.Client, sessions: Sessions, name: str) -> None:
    admin = make_key(sessions, "a", Scope.ADMIN)
    assert_problem(client.get(f"/v1/admin/tenants/{name}", headers=admin), 404)
    assert_problem(client.put(f"/v1/admin/tenants/{name}/quotas", json={}, headers=admin), 404)
    assert_problem(client.delete(f"/v1/admin/keys/{name}", headers=admin), 404)


def test_revoking_again_changes_nothing(client: httpx.Client, sessions: Sessions) -> None:
    admin, key = make_key(sessions, "a", Scope.ADMIN), make_key(sessions, "a", Scope.JOBS_READ)
    rows = []
    for _ in range(2):
        assert client.delete(f"/v1/admin/keys/{key_id_of(key)}", headers=admin).status_code == 204
        rows.append(stored(sessions, key).revoked_at)
    assert rows[0] is not None
    assert rows[0] == rows[1]


def test_a_download_that_is_sent_on_to_the_store_takes_no_key_along(
    client: httpx.Client, sessions: Sessions, finish: Callable[[str], None], tmp_path: Path
) -> None:
    header = make_key(sessions, "a", Scope.JOBS_READ, Scope.JOBS_WRITE)
    job_id = client.post("/v1/jobs", json=SPEC, headers=header).json()["id"]
    finish(job_id)
    # The S3 server refuses a request that brings a second proof of who it is beside the address's signature.
    with SGLP(str(client.base_url), api_key=key_of(header)) as service:
        directory = service.download(job_id, tmp_path / "out")
    assert (directory / "report.json").read_bytes() == FILES["report.json"]
