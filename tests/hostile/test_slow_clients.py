"""Clients that send a byte at a time, or take none, do not hold a connection, nor up those who do neither."""

import json
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from tests.api.conftest import SPEC
from tests.hostile.conftest import Server, serving
from tests.hostile.wire import post, request
from tests.services.postgresql import PostgreSQL

PATIENCE_SECONDS = 1.0
# Its own work, on a machine that does much besides.
LATE_SECONDS = 2.0
BODY = json.dumps(SPEC).encode()
UPLOAD = {"name": "data", "kind": "dataset", "files": [{"name": "a.txt", "size_bytes": 10_000, "sha256": "0" * 64}]}


@pytest.fixture(scope="module")
def server(postgresql_server: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("slow")
    with serving(postgresql_server.database(), directory, slow_client_seconds=PATIENCE_SECONDS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=10) as session:
        yield session


def drip(server: Server, start: bytes, byte: bytes) -> tuple[float, bytes]:
    """Send `start`, then a byte four times a second; the seconds until the connection ended, and what had come."""
    began, came = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection, suppress(OSError):
        connection.sendall(start)
        while time.monotonic() - began < 30:
            if select.select([connection], [], [], 0.25)[0]:
                got = connection.recv(65536)
                came += got
                if not got:
                    break
            elif byte:
                connection.sendall(byte)
    return time.monotonic() - began, came


LONG = 5000
START = {
    "nothing": (b"", b"", 408),
    "half a request line": (b"GET /livez", b"x", 408),
    "header fields": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", b"x", 408),
    "a body": (post("/v1/jobs", BODY, length=LONG), b" ", 408),
    "a chunked body": (post("/v1/jobs", b"fff\r\n", "Transfer-Encoding: chunked", length=-1), b" ", 408),
    "the size of a chunk": (request("POST", "/v1/jobs", b"", "Transfer-Encoding: chunked", length=-1), b"0", 408),
    "a body that nobody reads": (request("GET", "/livez", b"", length=LONG), b"x", 200),
    "a body behind its refusal": (request("POST", "/nowhere", b"", length=LONG), b"x", 404),
    "a body of HEAD": (request("HEAD", "/v1/jobs/job_x/artifacts/x", b"", length=LONG), b"x", 404),
    "the next request's header fields": (request("GET", "/livez") + b"GET / HTTP/1.1\r\nX-Slow: ", b"x", 200),
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(server: Server) -> dict[str, tuple[float, bytes]]:
    """What came of every drip, all at once."""
    with ThreadPoolExecutor(len(START)) as pool:
        return dict(zip(START, pool.map(lambda name: drip(server, *START[name][:2]), START), strict=True))


@pytest.mark.parametrize("name", START)
def test_a_drip_ends(ended: dict[str, tuple[float, bytes]], name: str) -> None:
    seconds, came = ended[name]
    assert seconds < 2 * PATIENCE_SECONDS + LATE_SECONDS
    assert came.split()[1] == str(START[name][2]).encode()


def test_an_endless_body_behind_its_refusal_ends(server: Server) -> None:
    start = request("POST", "/nowhere", b"", "Transfer-Encoding: chunked", length=-1)
    seconds, _ = drip(server, start, b"1000\r\n" + bytes(4096) + b"\r\n")
    assert seconds < 2 * PATIENCE_SECONDS + LATE_SECONDS


def test_a_file_that_drips_in_is_not_stored(server: Server, client: httpx.Client) -> None:
    link = client.post("/v1/uploads", json=UPLOAD).json()["files"][0]["link"]
    seconds, came = drip(server, request("PUT", link, b"", length=10_000), b"x")
    assert seconds < 2 * PATIENCE_SECONDS + LATE_SECONDS
    assert came.split()[1] == b"408"
    assert [path for path in server.log.parent.rglob("artifacts/*") if path.is_file()] == []


def test_a_file_that_comes_slowly_is_taken(server: Server, client: httpx.Client) -> None:
    link = client.post("/v1/uploads", json=UPLOAD).json()["files"][0]["link"]
    began = time.monotonic()

    def slowly() -> Iterator[bytes]:
        for _ in range(10):
            yield bytes(1000)
            time.sleep(4 * PATIENCE_SECONDS / 10)

    answer = client.put(link, content=slowly())
    assert time.monotonic() - began > 3 * PATIENCE_SECONDS
    # All of it was read: only its digest is wrong.
    assert (answer.status_code, answer.json()["code"]) == (422, "upload_incomplete")
    assert "sha256" in answer.json()["detail"]


def test_who_waits_for_an_answer_is_not_slow(client: httpx.Client) -> None:
    job = client.post("/v1/jobs", json=SPEC).json()
    headers = {"Prefer": "wait=4", "If-None-Match": client.get(job["links"]["self"]).headers["ETag"]}
    assert client.get(job["links"]["self"], headers=headers).status_code == 304
    with client.stream("GET", job["links"]["events"], headers={"Accept": "text/event-stream"}) as stream:
        time.sleep(3 * PATIENCE_SECONDS)
        assert client.post(job["links"]["cancel"]).status_code == 200
        assert "event: cancelled" in stream.read().decode()


def test_two_hundred_drips_hold_nobody_up(server: Server, client: httpx.Client) -> None:
    process = psutil.Process(server.pid)
    assert client.get("/livez").status_code == 200
    before = process.num_fds()
    with ExitStack() as opened:
        drips = [
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5)) for _ in range(200)
        ]
        for number, connection in enumerate(drips):
            connection.sendall(b"GET /livez HTTP/1.1\r\nX: " if number % 2 else post("/v1/jobs", BODY, length=LONG))
        while process.num_fds() < before + 200:
            time.sleep(0.01)
        began = time.monotonic()
        assert client.post("/v1/jobs", json=SPEC).status_code == 202
        assert time.monotonic() - began < 1
        give_up = time.monotonic() + 2 * PATIENCE_SECONDS + LATE_SECONDS
        while process.num_fds() > before + 5 and time.monotonic() < give_up:
            for connection in drips:
                with suppress(OSError):
                    connection.send(b"x")
            time.sleep(0.2)
        assert process.num_fds() <= before + 5


def test_who_takes_nothing_of_an_answer_is_left(server: Server, client: httpx.Client) -> None:
    process = psutil.Process(server.pid)
    assert client.get("/livez").status_code == 200
    before = process.num_fds()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(0.2)
        with suppress(OSError):
            for _ in range(500):
                connection.sendall(request("GET", "/openapi.json") * 10)
        give_up = time.monotonic() + 4 * PATIENCE_SECONDS + LATE_SECONDS
        while process.num_fds() > before and time.monotonic() < give_up:
            time.sleep(0.1)
        assert process.num_fds() <= before
