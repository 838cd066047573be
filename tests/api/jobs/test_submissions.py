"""Submitting safely: keys, retries, deletion."""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.clock import later
from jobs.database import transaction
from jobs.repository import JobRepository, UpkeepRepository
from jobs.settings import Settings
from jobs.tables import DeletedJob, IdempotencyKey, Job
from tests.api.conftest import SPEC, serving
from worker.upkeep.cleanup import Sweeper

Submit = Callable[[], str]
KEY = {"Idempotency-Key": "nightly-2026-11-24"}


def count_jobs(sessions: sessionmaker[Session]) -> int:
    with transaction(sessions) as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_the_same_key_gives_the_same_job(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    first, second = (client.post("/v1/jobs", json=SPEC, headers=KEY) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert ("Idempotent-Replayed" in first.headers, second.headers["Idempotent-Replayed"]) == (False, "true")
    assert first.headers["Location"] == second.headers["Location"]
    # A default that is spelled out asks for nothing else, and nor does another order.
    spelled = dict(reversed({**SPEC, "mode": "compress", "healing": None}.items()))
    assert client.post("/v1/jobs", json=spelled, headers=KEY).json()["id"] == first.json()["id"]
    assert count_jobs(sessions) == 1


def test_another_request_under_the_same_key_is_refused(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    client.post("/v1/jobs", json=SPEC, headers=KEY)
    other = client.post("/v1/jobs", json={**SPEC, "metadata": {"a": "b"}}, headers=KEY)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert count_jobs(sessions) == 1


def test_200_requests_at_once_make_one_job(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/jobs", json=SPEC, headers=KEY), range(200)))
    assert Counter(answer.status_code for answer in answers) == {202: 200}
    assert len({answer.json()["id"] for answer in answers}) == count_jobs(sessions) == 1
    assert Counter("Idempotent-Replayed" in answer.headers for answer in answers) == {True: 199, False: 1}


def test_a_refused_request_does_not_take_its_key(client: httpx.Client) -> None:
    assert client.post("/v1/jobs", json={**SPEC, "mode": "x"}, headers=KEY).status_code == 422
    answer = client.post("/v1/jobs", json=SPEC, headers=KEY)
    assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (202, False)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_refused(client: httpx.Client, key: str) -> None:
    answer = client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": key.encode()})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "idempotency-key")


def test_a_key_is_forgotten_after_24_hours(client: httpx.Client, sessions: sessionmaker[Session]) -> None:
    first = client.post("/v1/jobs", json=SPEC, headers=KEY).json()["id"]
    with transaction(sessions) as session:
        session.execute(update(IdempotencyKey).values(created_at=later(-24 * 3600 - 1)))
    second = client.post("/v1/jobs", json=SPEC, headers=KEY)
    assert second.json()["id"] != first
    with transaction(sessions) as session:
        assert UpkeepRepository(session).forget_keys() == 0
        session.execute(update(IdempotencyKey).values(created_at=later(-24 * 3600 - 1)))
        assert UpkeepRepository(session).forget_keys() == 1


def test_a_retry_is_a_new_job_that_names_the_old_one(client: httpx.Client, submit: Submit) -> None:
    job_id = submit()
    early = client.post(f"/v1/jobs/{job_id}/retry")
    assert (early.status_code, "queued" in early.json()["detail"]) == (409, True)
    client.post(f"/v1/jobs/{job_id}/cancel")
    first, second = (client.post(f"/v1/jobs/{job_id}/retry", headers=KEY) for _ in range(2))
    job = first.json()
    assert (first.status_code, job["status"], job["retry_of"], job["attempt"]) == (202, "queued", job_id, 0)
    assert job["spec"] == client.get(f"/v1/jobs/{job_id}").json()["spec"]
    assert (job["id"] != job_id, second.json()["id"]) == (True, job["id"])
    # A retry is not the request that submitted the specification first.
    assert client.post("/v1/jobs", json=SPEC, headers=KEY).status_code == 422


def test_metadata_has_no_order(client: httpx.Client) -> None:
    one, other = ({**SPEC, "metadata": metadata} for metadata in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    first, second = (client.post("/v1/jobs", json=each, headers=KEY) for each in (one, other))
    assert (second.status_code, second.json()["id"]) == (202, first.json()["id"])


def test_a_request_sent_again_gives_its_job_whatever_has_changed_since(
    client: httpx.Client, submit: Submit, settings: Settings
) -> None:
    job_id = submit()
    client.post(f"/v1/jobs/{job_id}/cancel")
    retried = client.post(f"/v1/jobs/{job_id}/retry", headers=KEY)
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    again = client.post(f"/v1/jobs/{job_id}/retry", headers=KEY)
    assert (again.status_code, again.json()["id"]) == (202, retried.json()["id"])
    assert client.post(f"/v1/jobs/{job_id}/retry").status_code == 404
    local = {**SPEC, "model": {"uri": "file:///models/mine"}}
    key = {"Idempotency-Key": "local"}
    with serving(settings.model_copy(update={"model_roots": (Path("/models"),)})) as before:
        made = before.post("/v1/jobs", json=local, headers=key).json()["id"]
    assert client.post("/v1/jobs", json=local).status_code == 422
    assert client.post("/v1/jobs", json=local, headers=key).json()["id"] == made


def test_a_deleted_job_is_gone_with_everything_it_made(
    client: httpx.Client,
    submit: Submit,
    finish: Callable[[str], None],
    store: ArtifactStore,
    sessions: sessionmaker[Session],
) -> None:
    job_id = client.post("/v1/jobs", json=SPEC, headers=KEY).json()["id"]
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 409
    finish(job_id)
    kept = submit()
    finish(kept)
    assert store.list(f"jobs/{job_id}/")
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/events", "/artifacts", "/layers", "/report"):
        assert client.get(f"/v1/jobs/{job_id}{path}").status_code == 404
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert client.post("/v1/jobs", json=SPEC, headers=KEY).status_code == 410
    Sweeper(sessions, store, Settings()).remove_deleted_jobs()
    # A worker that was cut off may still be uploading.
    assert store.list(f"jobs/{job_id}/")
    Sweeper(sessions, store, Settings(sweep_after_seconds=1e-9)).remove_deleted_jobs()
    assert store.list(f"jobs/{job_id}/") == []
    assert store.list(f"jobs/{kept}/")
    with transaction(sessions) as session:
        assert session.scalars(select(DeletedJob)).all() == []
        assert JobRepository(session).get("default", kept) is not None


def test_files_are_kept_until_they_expire(
    client: httpx.Client,
    submit: Submit,
    finish_for: Callable[[str, float], None],
    store: ArtifactStore,
    sessions: sessionmaker[Session],
) -> None:
    short, forever = submit(), submit()
    finish_for(short, 0.2 / 86400)
    finish_for(forever, 0)
    listed = client.get(f"/v1/jobs/{short}/artifacts").json()["data"]
    assert all(file["expires_at"] for file in listed)
    assert {file["expires_at"] for file in client.get(f"/v1/jobs/{forever}/artifacts").json()["data"]} == {None}
    while client.get(listed[0]["link"], follow_redirects=False).status_code != 410:
        pass
    for path in ("artifacts.tar", "report", "artifacts/report.json"):
        assert client.get(f"/v1/jobs/{short}/{path}").status_code == 410, path
    Sweeper(sessions, store, Settings()).remove_expired()
    assert store.list(f"jobs/{short}/") == []
    assert store.list(f"jobs/{forever}/")
    assert client.get(listed[0]["link"]).status_code == 410
    # What the database holds stays.
    assert client.get(f"/v1/jobs/{short}/similarity").status_code == 200
    with transaction(sessions) as session:
        assert UpkeepRepository(session).expired_artifacts(10) == []


def test_a_file_can_be_asked_about_without_its_bytes(
    client: httpx.Client, submit: Submit, finish: Callable[[str], None]
) -> None:
    job_id = submit()
    finish(job_id)
    link = f"/v1/jobs/{job_id}/artifacts/report.md"
    asked, got = client.head(link), client.get(link, follow_redirects=True)
    assert (asked.status_code, asked.content, got.status_code) == (200, b"", 200)
    assert asked.headers["Content-Length"] == str(len(got.content))
    assert asked.headers["ETag"] == f'"{hashlib.sha256(got.content).hexdigest()}"'
    assert client.head(link, headers={"If-None-Match": asked.headers["ETag"]}).status_code == 304
