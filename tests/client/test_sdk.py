"""The SDK against a server that misbehaves; tests/system shows it against the real one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from sglp_client import SGLP, DownloadDamaged, Job, NothingToDownload, SGLPProblem

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PROBLEM = {
    "status": 422,
    "title": "Invalid request",
    "detail": "the body does not fit",
    "errors": [{"pointer": "/target/ratio", "detail": "must be less than 1"}],
}


class Handler(BaseHTTPRequestHandler):
    """Answers from `pages`: path → (status, content type, body)."""

    pages: dict[str, tuple[int, str, bytes]]
    posts: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        status, content_type, body = self.pages[self.path]
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """The first request of a path breaks off after it was heard."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append((self.path, self.headers["Idempotency-Key"]))
        if len([path for path, _ in self.posts if path == self.path]) == 1:
            self.close_connection = True
            return
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def pages() -> dict[str, tuple[int, str, bytes]]:
    return {}


@pytest.fixture
def service(pages: dict[str, tuple[int, str, bytes]]) -> Iterator[SGLP]:
    handler = type("Pages", (Handler,), {"pages": pages})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with SGLP(f"http://127.0.0.1:{server.server_port}") as client:
            yield client
        server.shutdown()


def offer(pages: dict[str, tuple[int, str, bytes]], name: str, content: bytes) -> None:
    listing = {"data": [{"name": name, "sha256": SHA256}]}
    pages["/v1/jobs/job_a/artifacts"] = (200, "application/json", json.dumps(listing).encode())
    pages[f"/v1/jobs/job_a/artifacts/{name}"] = (200, "application/octet-stream", content)


def test_a_download_lands_under_its_name(service: SGLP, pages: dict, tmp_path: Path) -> None:
    offer(pages, "model/model.safetensors", CONTENT)
    service.download("job_a", tmp_path)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["model.safetensors"]


def test_a_damaged_download_leaves_no_file(service: SGLP, pages: dict, tmp_path: Path) -> None:
    offer(pages, "model.safetensors", b"Weights")
    with pytest.raises(DownloadDamaged, match=SHA256):
        service.download("job_a", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_download_does_not_replace_a_good_file(service: SGLP, pages: dict, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    offer(pages, "model.safetensors", b"Weights")
    with pytest.raises(DownloadDamaged):
        service.download("job_a", tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == CONTENT


def test_a_name_that_leaves_the_folder_is_refused(service: SGLP, pages: dict, tmp_path: Path) -> None:
    offer(pages, "../outside", CONTENT)
    with pytest.raises(DownloadDamaged, match="outside"):
        service.download("job_a", tmp_path / "inside")
    assert not (tmp_path / "outside").exists()


def test_a_problem_carries_status_detail_and_pointers(service: SGLP, pages: dict) -> None:
    pages["/v1/jobs/job_a"] = (422, "application/problem+json", json.dumps(PROBLEM).encode())
    with pytest.raises(SGLPProblem) as caught:
        service.get("job_a")
    assert caught.value.status == 422
    assert caught.value.problem == PROBLEM
    assert str(caught.value) == "the body does not fit; /target/ratio: must be less than 1"


def test_ids_cannot_change_the_path(service: SGLP, pages: dict) -> None:
    pages["/v1/jobs/..%2F..%2Flivez"] = (200, "application/json", b'{"id": "asked"}')
    assert service.get("../../livez") == {"id": "asked"}


def test_a_problem_with_a_parameter_names_it(service: SGLP, pages: dict) -> None:
    problem = {**PROBLEM, "errors": [{"parameter": "limit", "detail": "too large"}]}
    pages["/v1/jobs?limit=500"] = (422, "application/problem+json", json.dumps(problem).encode())
    with pytest.raises(SGLPProblem, match="limit: too large"):
        list(service.list(limit=500))


@pytest.mark.parametrize("content_type", ["application/problem+json", "text/html"])
def test_waiting_goes_on_while_the_service_is_unavailable(service: SGLP, pages: dict, content_type: str) -> None:
    job = {"id": "job_a", "version": 1, "status": "succeeded"}
    pages["/v1/jobs/job_a"] = (503, content_type, json.dumps({"status": 503, "title": "Down"}).encode())
    looks: list[int] = []

    def on_poll() -> None:
        looks.append(1)
        if len(looks) == 3:
            pages["/v1/jobs/job_a"] = (200, "application/json", json.dumps(job).encode())

    assert service.wait("job_a", on_poll=on_poll) == job
    assert len(looks) == 3


def test_an_update_that_meets_an_unavailable_service_is_made_again(service: SGLP, pages: dict) -> None:
    job = {"id": "job_a", "version": 1, "status": "succeeded"}
    pages["/v1/jobs/job_a"] = (200, "application/json", json.dumps(job).encode())
    updates: list[str] = []

    def on_update(job: Job) -> None:
        updates.append(job["status"])
        if len(updates) == 1:
            raise SGLPProblem({"status": 503, "title": "Down"})

    assert service.wait("job_a", on_update) == job
    assert updates == ["succeeded", "succeeded"]


def test_waiting_for_an_unknown_job_ends_at_once(service: SGLP, pages: dict) -> None:
    pages["/v1/jobs/job_a"] = (404, "application/problem+json", json.dumps({"status": 404, "title": "none"}).encode())
    with pytest.raises(SGLPProblem, match="none"):
        service.wait("job_a")


def test_a_job_without_artifacts_is_no_download(service: SGLP, pages: dict, tmp_path: Path) -> None:
    pages["/v1/jobs/job_a/artifacts"] = (200, "application/json", b'{"data": []}')
    pages["/v1/jobs/job_a"] = (200, "application/json", b'{"status": "running"}')
    with pytest.raises(NothingToDownload, match="running"):
        service.download("job_a", tmp_path)


def test_a_request_that_broke_off_is_sent_again_under_its_key(service: SGLP, pages: dict) -> None:
    pages["/v1/jobs"] = pages["/v1/jobs/job_a/retry"] = (202, "application/json", b'{"id": "job_b"}')
    Handler.posts.clear()
    assert service.submit({})["id"] == service.retry("job_a")["id"] == "job_b"
    (first, again, other, _) = Handler.posts
    assert first == again
    assert first[1] != other[1]
    service.submit({}, idempotency_key="mine")
    assert Handler.posts[-1] == ("/v1/jobs", "mine")


def test_a_quota_that_is_used_up_is_reported_at_once(service: SGLP, pages: dict) -> None:
    problem = {"status": 429, "title": "Too Many Requests", "detail": "the quota queued_jobs of 5 is used up"}
    pages["/v1/jobs"] = (429, "application/problem+json", json.dumps(problem).encode())
    # The first request of this path breaks off.
    Handler.posts.clear()
    with pytest.raises(SGLPProblem, match="queued_jobs"):
        service.submit({})
    assert len(Handler.posts) == 2
