"""An upload from its declaration to its end: only its tenant has it, and no job loses what it reads."""

import httpx
import pytest
from sqlalchemy import update

from jobs.artifacts import ArtifactStore
from jobs.clock import later
from jobs.database import transaction
from jobs.repository import ClaimRepository, Quotas, TenantRepository
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from jobs.tables import Upload
from tests.api.conftest import SPEC
from tests.api.keyed import assert_problem, make_key
from tests.api.uploads.declaring import LARGE, TEXT, Key, Sessions, declare, declared, opened, reading, ready, stored
from worker.upkeep.cleanup import Sweeper


def test_an_upload_counts_against_its_tenants_quota_from_its_declaration(
    client: httpx.Client, key: Key, other: Key, sessions: Sessions
) -> None:
    with transaction(sessions) as session:
        TenantRepository(session).set_quotas("vision", Quotas(stored_bytes=len(TEXT) * 2 - 1))
    opened(client, other, declared(LARGE))
    upload = ready(client, key)
    answer = declare(client, key, declared(TEXT))
    assert_problem(answer, 429)
    assert (answer.json()["quota"], answer.json()["use"]) == ("stored_bytes", len(TEXT))
    with transaction(sessions) as session:
        TenantRepository(session).set_quotas("vision", Quotas(stored_bytes=len(TEXT)))
    assert_problem(client.post("/v1/jobs", json=SPEC, headers=key), 429)
    client.delete(upload["links"]["self"], headers=key)
    opened(client, key, declared(TEXT))


def test_a_job_names_only_what_its_tenant_has(client: httpx.Client, key: Key, other: Key) -> None:
    upload = ready(client, key)
    assert client.post("/v1/jobs", json=reading(upload), headers=key).status_code == 202
    foreign = client.post("/v1/jobs", json=reading(upload), headers=other)
    never = {"uri": "upload://upload_" + "0" * 26}
    unknown = client.post("/v1/jobs", json=reading(never), headers=other)
    assert_problem(foreign, 422)
    assert foreign.json()["code"] == "bad_calibration"
    assert foreign.text.replace(upload["uri"][9:], "<id>") == unknown.text.replace(never["uri"][9:], "<id>")


def test_a_job_names_only_what_is_ready_and_of_the_right_kind(client: httpx.Client, key: Key) -> None:
    unfinished = opened(client, key, declared(TEXT))
    answer = client.post("/v1/jobs", json=reading(unfinished), headers=key)
    assert_problem(answer, 422)
    assert "not complete" in answer.json()["detail"]
    dataset = ready(client, key)
    answer = client.post("/v1/jobs", json={**SPEC, "model": {"uri": dataset["uri"]}}, headers=key)
    assert_problem(answer, 422)
    assert (answer.json()["code"], answer.json()["errors"][0]["pointer"]) == ("model_not_found", "/model/uri")
    model = ready(client, key, kind="model")
    assert client.post("/v1/jobs", json={**SPEC, "model": {"uri": model["uri"]}}, headers=key).status_code == 202


def test_an_upload_is_not_deleted_under_a_job(client: httpx.Client, key: Key, store: ArtifactStore) -> None:
    upload = ready(client, key)
    job_id = client.post("/v1/jobs", json=reading(upload), headers=key).json()["id"]
    assert_problem(client.delete(upload["links"]["self"], headers=key), 409)
    client.post(f"/v1/jobs/{job_id}/cancel", headers=key)
    assert client.delete(upload["links"]["self"], headers=key).status_code == 204
    assert_problem(client.get(upload["links"]["self"], headers=key), 404)
    # Its job is there to be seen, and is refused when it is asked for again.
    assert_problem(client.post(f"/v1/jobs/{job_id}/retry", headers=key), 422)


def test_a_claim_gives_the_uploads_of_its_own_tenant(client: httpx.Client, key: Key, sessions: Sessions) -> None:
    upload = ready(client, key)
    ids = [client.post("/v1/jobs", json=reading(upload), headers=key).json()["id"] for _ in range(2)]
    claims = []
    for job_id in ids:
        with transaction(sessions) as session:
            claims.append(ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60))
            # As if somebody had got past the check of the submission.
            session.execute(update(Upload).values(tenant="speech"))
    assert [None if claim is None else list(claim.uploads) for claim in claims] == [[upload["uri"]], []]


def test_what_was_deleted_goes_from_the_store(
    client: httpx.Client, key: Key, sessions: Sessions, store: ArtifactStore
) -> None:
    first, second = ready(client, key), ready(client, key)
    sweeper = Sweeper(sessions, store, Settings(sweep_after_seconds=60))
    client.delete(first["links"]["self"], headers=key)
    sweeper.remove_orphans()
    assert stored(store) == [f"uploads/{second['id']}/text.txt"]


def test_more_than_was_declared_does_not_stay_in_the_store(
    client: httpx.Client, key: Key, sessions: Sessions, store: ArtifactStore, settings: Settings
) -> None:
    if settings.artifact_url.startswith("file:"):
        pytest.skip("a folder signs no address, and the service lets no more through")
    upload, honest = opened(client, key, declared(TEXT)), ready(client, key)
    where = client.post(f"{upload['files'][0]['link']}/address", headers=key).json()
    assert httpx.put(where["url"], content=TEXT * 2).is_success
    Sweeper(sessions, store, Settings()).remove_oversized()
    assert stored(store) == [f"uploads/{honest['id']}/text.txt"]


def test_an_upload_expires_unless_a_job_reads_it(
    client: httpx.Client, key: Key, sessions: Sessions, store: ArtifactStore
) -> None:
    never_completed, unread, read = opened(client, key, declared(TEXT)), ready(client, key), ready(client, key)
    job_id = client.post("/v1/jobs", json=reading(read), headers=key).json()["id"]
    sweeper = Sweeper(sessions, store, Settings(sweep_after_seconds=60))

    def left() -> set[str]:
        sweeper.expire_uploads()
        sweeper.remove_orphans()
        with transaction(sessions) as session:
            return {upload.id for upload in session.query(Upload)}

    assert left() == {never_completed["id"], unread["id"], read["id"]}
    with transaction(sessions) as session:
        session.execute(update(Upload).values(expires_at=later(-1)))
    assert left() == {read["id"]}
    assert stored(store) == [f"uploads/{read['id']}/text.txt"]
    # To its tenant it has expired all the same.
    assert_problem(client.get(read["links"]["self"], headers=key), 404)
    assert_problem(client.post("/v1/jobs", json=reading(read), headers=key), 422)
    client.post(f"/v1/jobs/{job_id}/cancel", headers=key)
    assert left() == set()
    assert stored(store) == []


def test_pages_go_on_where_the_last_ended(client: httpx.Client, key: Key) -> None:
    made = [opened(client, key, declared(TEXT))["id"] for _ in range(3)]
    first = client.get("/v1/uploads", params={"limit": 2}, headers=key).json()
    rest = client.get("/v1/uploads", params={"limit": 2, "after": first["next_cursor"]}, headers=key).json()
    assert [each["id"] for each in first["data"] + rest["data"]] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)


def test_what_was_done_with_an_upload_is_written_down(client: httpx.Client, key: Key, sessions: Sessions) -> None:
    upload = ready(client, key)
    client.get(upload["links"]["self"], headers=key)
    client.delete(upload["links"]["self"], headers=key)
    admin = make_key(sessions, "operators", Scope.ADMIN)
    events = client.get("/v1/admin/audit-events", headers=admin, params={"subject": upload["id"]}).json()["data"]
    place = "/v1/uploads/{upload_id}"
    assert [event["action"] for event in reversed(events)] == [
        "POST /v1/uploads",
        f"PUT {place}/files/{{name}}",
        f"POST {place}/complete",
        f"DELETE {place}",
    ]
