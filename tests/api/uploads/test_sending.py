"""Files on their way in: what is stored is what was declared."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from api.uploads import verify
from jobs.artifacts import ArtifactStore
from jobs.security.api_keys import Scope
from jobs.settings import Settings
from tests.api.keyed import assert_problem, make_key
from tests.api.uploads.declaring import LARGE, TEXT, Key, Sessions, declare, declared, in_pieces, opened, ready, stored


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
    monkeypatch.setattr(verify, "CHECK_SECONDS", 1.0)
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
