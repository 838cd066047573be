"""Files on their way in: what is stored is what was declared, and only its tenant has it."""

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from api import checking
from jobs.artifacts import ArtifactStore
from jobs.clock import later
from jobs.database import transaction
from jobs.keys import Scope
from jobs.repository import ClaimRepository, Quotas, TenantRepository
from jobs.settings import Settings
from jobs.tables import Upload
from tests.api.conftest import SPEC
from tests.api.keyed import assert_problem, make_key, with_keys
from worker.sweeping import Sweeper

Sessions = sessionmaker[Session]
Key = dict[str, str]
BOTH = (Scope.JOBS_READ, Scope.JOBS_WRITE)
# More than two parts of a multipart upload.
LARGE = random.Random(0).randbytes(1 << 20) * 20
TEXT = b"the cat sat on the mat\n"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return with_keys(settings).model_copy(update={"upload_limit_bytes": len(LARGE) + len(TEXT)})


@pytest.fixture
def key(sessions: Sessions) -> Key:
    return make_key(sessions, "vision", *BOTH)


@pytest.fixture
def other(sessions: Sessions) -> Key:
    return make_key(sessions, "speech", *BOTH)


def declared(content: bytes, name: str = "text.txt", **changes: Any) -> dict[str, Any]:
    return {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}


def declare(client: httpx.Client, key: Key, *files: dict[str, Any], kind: str = "dataset") -> httpx.Response:
    return client.post("/v1/uploads", json={"name": "mine", "kind": kind, "files": files}, headers=key)


def opened(client: httpx.Client, key: Key, *files: dict[str, Any], kind: str = "dataset") -> dict[str, Any]:
    answer = declare(client, key, *files, kind=kind)
    assert answer.status_code == 201, answer.text
    return answer.json()


def ready(client: httpx.Client, key: Key, content: bytes = TEXT, kind: str = "dataset") -> dict[str, Any]:
    """An upload that jobs may read."""
    upload = opened(client, key, declared(content), kind=kind)
    assert client.put(upload["files"][0]["link"], content=content, headers=key).status_code == 204
    answer = client.post(upload["links"]["complete"], headers=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


def reading(upload: dict[str, Any]) -> dict[str, Any]:
    return {**SPEC, "calibration": {"source": upload["uri"]}}


def stored(store: ArtifactStore) -> list[str]:
    return store.list("uploads/")


def in_pieces(content: bytes, size: int = 1 << 18) -> Iterator[bytes]:
    """A body whose length no header tells."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def test_what_was_sent_through_the_service_is_what_is_stored(
    client: httpx.Client, key: Key, store: ArtifactStore
) -> None:
    answer = declare(client, key, declared(LARGE, "model.safetensors"), declared(TEXT, "config.json"), kind="model")
    upload = answer.json()
    assert (answer.headers["Location"], upload["status"]) == (f"/v1/uploads/{upload['id']}", "open")
    for file in upload["files"]:
        content = TEXT if file["name"] == "config.json" else LARGE
        assert client.put(file["link"], content=in_pieces(content), headers=key).status_code == 204
    completed = client.post(upload["links"]["complete"], headers=key).json()
    assert (completed["status"], completed["uri"]) == ("ready", f"upload://{upload['id']}")
    assert b"".join(store.stream(f"uploads/{upload['id']}/model.safetensors")) == LARGE
    assert client.get(upload["links"]["self"], headers=key).json() == completed
    assert client.get("/v1/uploads", headers=key).json()["data"] == [completed]


def test_a_store_that_can_sign_takes_the_file_itself(
    client: httpx.Client, key: Key, store: ArtifactStore, settings: Settings
) -> None:
    upload = opened(client, key, declared(TEXT))
    (file,) = upload["files"]
    where = client.post(f"{file['link']}/address", headers=key).json()
    if settings.artifact_url.startswith("file:"):
        assert where == {"url": file["link"], "signed": False, "expires_in_seconds": None}
        return
    assert (where["signed"], where["expires_in_seconds"]) == (True, settings.presign_seconds)
    assert httpx.put(where["url"], content=TEXT).is_success
    assert httpx.put(where["url"].replace("text.txt", "text.tx"), content=TEXT).status_code == 403
    assert client.post(upload["links"]["complete"], headers=key).json()["status"] == "ready"


def test_a_signed_address_is_nothing_for_a_key_that_may_only_read(
    client: httpx.Client, key: Key, sessions: Sessions
) -> None:
    upload = opened(client, key, declared(TEXT))
    reader = make_key(sessions, "vision", Scope.JOBS_READ)
    assert_problem(client.post(f"{upload['files'][0]['link']}/address", headers=reader), 403)
    assert "ignature" not in client.get(upload["links"]["self"], headers=reader).text


@pytest.mark.parametrize("lie", [{"size_bytes": len(TEXT) - 1}, {"size_bytes": len(TEXT) + 1}, {"sha256": "0" * 64}])
def test_what_lies_in_the_store_must_be_what_was_declared(
    client: httpx.Client, key: Key, store: ArtifactStore, lie: dict[str, Any], tmp_path: Any
) -> None:
    upload = opened(client, key, declared(TEXT, **lie))
    # As a signed address would have taken it.
    (tmp_path / "sent").write_bytes(TEXT)
    store.put(f"uploads/{upload['id']}/text.txt", tmp_path / "sent", "text/plain")
    answer = client.post(upload["links"]["complete"], headers=key)
    assert_problem(answer, 422)
    assert (answer.json()["code"], answer.json()["errors"][0]["pointer"]) == ("upload_incomplete", "/files/0")
    assert stored(store) == []
    assert client.get(upload["links"]["self"], headers=key).json()["status"] == "open"


def test_completing_reads_back_for_a_bounded_time_and_small_files_first(
    client: httpx.Client, key: Key, store: ArtifactStore, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = declared(LARGE, "large.txt", sha256="0" * 64), declared(TEXT, "small.txt", sha256="0" * 64)
    upload = opened(client, key, large, small, kind="model")
    for name, content in (("large.txt", LARGE), ("small.txt", TEXT)):
        (tmp_path / "sent").write_bytes(content)
        store.put(f"uploads/{upload['id']}/{name}", tmp_path / "sent", "text/plain")
    slow = ArtifactStore.stream

    def dripping(store: ArtifactStore, key: str) -> Iterator[bytes]:
        for chunk in slow(store, key):
            yield chunk
            time.sleep(0.2)

    monkeypatch.setattr(ArtifactStore, "stream", dripping)
    monkeypatch.setattr(checking, "CHECK_SECONDS", 1.0)
    begin = time.monotonic()
    answer = client.post(upload["links"]["complete"], headers=key)
    assert time.monotonic() - begin < 3
    # The large file, whose 20 pieces take four seconds, is left to the job.
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/files/1"]
    assert stored(store) == [f"uploads/{upload['id']}/large.txt"]


def test_uploads_that_take_long_to_check_keep_no_other_request_waiting(
    client: httpx.Client, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = [opened(client, key, declared(TEXT)) for _ in range(50)]
    for upload in uploads:
        client.put(upload["files"][0]["link"], content=TEXT, headers=key).raise_for_status()
    reading_back, done = ArtifactStore.stream, threading.Event()

    def waiting(store: ArtifactStore, key: str) -> Iterator[bytes]:
        done.wait(20)
        return reading_back(store, key)

    monkeypatch.setattr(ArtifactStore, "stream", waiting)
    # More than the framework has threads.
    with ThreadPoolExecutor(len(uploads)) as pool:
        completing = [pool.submit(client.post, each["links"]["complete"], headers=key) for each in uploads]
        time.sleep(1)
        begin = time.monotonic()
        assert client.get(uploads[0]["links"]["self"], headers=key).json()["status"] == "open"
        assert time.monotonic() - begin < 5
        done.set()
        assert {each.result().status_code for each in completing} == {200}


def test_more_than_declared_is_refused_while_it_streams(client: httpx.Client, key: Key, store: ArtifactStore) -> None:
    upload = opened(client, key, declared(LARGE[: 9 << 20]))
    seen = 0

    def body() -> Iterator[bytes]:
        nonlocal seen
        for piece in in_pieces(LARGE * 20):
            seen += len(piece)
            yield piece

    try:
        answer = client.put(upload["files"][0]["link"], content=body(), headers=key)
        assert_problem(answer, 413)
    except httpx.WriteError:
        # The service has closed the connection while the rest was being written.
        pass
    assert seen < len(LARGE) * 20
    assert stored(store) == []


def test_a_length_that_is_announced_is_refused_before_the_first_byte(
    client: httpx.Client, key: Key, store: ArtifactStore
) -> None:
    upload = opened(client, key, declared(TEXT))
    assert_problem(client.put(upload["files"][0]["link"], content=TEXT * 2, headers=key), 413)
    assert stored(store) == []


@pytest.mark.parametrize(("lie", "word"), [({"size_bytes": len(TEXT) + 1}, "only"), ({"sha256": "0" * 64}, "sha256")])
def test_fewer_or_other_bytes_are_not_stored(
    client: httpx.Client, key: Key, store: ArtifactStore, lie: dict[str, Any], word: str
) -> None:
    upload = opened(client, key, declared(TEXT, **lie))
    answer = client.put(upload["files"][0]["link"], content=in_pieces(TEXT), headers=key)
    assert_problem(answer, 422)
    assert word in answer.json()["detail"]
    assert stored(store) == []


def test_a_sender_that_is_killed_leaves_nothing_and_may_come_again(
    client: httpx.Client, key: Key, store: ArtifactStore
) -> None:
    upload = opened(client, key, declared(LARGE))
    link = upload["files"][0]["link"]
    with socket.create_connection((client.base_url.host, client.base_url.port)) as sender:
        head = f"PUT {link} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key['Authorization']}\r\n"
        sender.sendall(f"{head}Content-Length: {len(LARGE)}\r\n\r\n".encode() + LARGE[: 10 << 20])
    time.sleep(0.3)
    assert stored(store) == []
    assert_problem(client.post(upload["links"]["complete"], headers=key), 422)
    assert client.put(link, content=LARGE, headers=key).status_code == 204
    assert client.post(upload["links"]["complete"], headers=key).status_code == 200


def test_an_upload_over_the_cap_is_refused(client: httpx.Client, key: Key, settings: Settings) -> None:
    over = declared(TEXT, size_bytes=settings.upload_limit_bytes + 1)
    assert_problem(declare(client, key, over), 413)
    assert client.get("/v1/uploads", headers=key).json()["data"] == []


def test_only_plain_base_names_are_files(client: httpx.Client, key: Key) -> None:
    long = "x" * 201
    for name in ("../x", "a/b", "/x", ".", "..", ".hidden", "", "a\x00b", "a\nb", "a\\b", long, "ü.txt", "x\n"):
        answer = declare(client, key, declared(TEXT, name))
        assert_problem(answer, 422)
        assert answer.json()["errors"][0]["pointer"] == "/files/0/name"


def test_what_cannot_be_an_upload_is_refused(client: httpx.Client, key: Key) -> None:
    for files, kind in (
        ([declared(TEXT), declared(TEXT)], "model"),
        ([declared(TEXT, "a"), declared(TEXT, "b")], "dataset"),
        ([], "model"),
        ([declared(TEXT, size_bytes=-1)], "dataset"),
        ([declared(TEXT, sha256="x")], "dataset"),
        ([declared(TEXT)], "program"),
    ):
        assert_problem(declare(client, key, *files, kind=kind), 422)
    assert client.get("/v1/uploads", headers=key).json()["data"] == []


def test_a_file_that_was_not_declared_is_not_taken(client: httpx.Client, key: Key, store: ArtifactStore) -> None:
    upload = opened(client, key, declared(TEXT))
    answer = client.put(f"{upload['links']['self']}/files/other.txt", content=TEXT, headers=key)
    assert_problem(answer, 404)
    assert stored(store) == []


def test_a_complete_upload_changes_no_more(client: httpx.Client, key: Key) -> None:
    upload = ready(client, key)
    link = upload["files"][0]["link"]
    assert_problem(client.put(link, content=TEXT, headers=key), 409)
    assert_problem(client.post(f"{link}/address", headers=key), 409)
    assert client.post(upload["links"]["complete"], headers=key).json() == upload


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
