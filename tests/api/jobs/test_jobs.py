"""Submitting, seeing and cancelling jobs over HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import ClaimRepository
from jobs.tables import Job
from tests.api.conftest import SPEC

Submit = Callable[[], str]


def test_a_submitted_job_waits_at_its_location(client: httpx.Client) -> None:
    response = client.post("/v1/jobs", json={**SPEC, "metadata": {"pipeline": "nightly"}})
    job = response.json()
    assert response.status_code == 202
    assert (job["object"], job["status"], job["attempt"]) == ("compression.job", "queued", 0)
    assert job["spec"]["metadata"] == {"pipeline": "nightly"}
    assert job["spec"]["method"]["importance"] == "proposals"
    assert job["created_at"].endswith("Z")
    # Where it stands is said to those who ask for it, and not looked up for a submission.
    there = {**job, "queue": {"position": 1, "expected_start_seconds": None}}
    assert client.get(response.headers["Location"]).json() == there == client.get(job["links"]["self"]).json()


def test_an_analysis_is_a_job_too(client: httpx.Client) -> None:
    response = client.post("/v1/jobs", json={"mode": "analyze", "model": {"uri": "hf://org/name"}})
    assert (response.status_code, response.json()["spec"]["target"]) == (202, None)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_what_is_no_number_of_json_is_refused_by_name(client: httpx.Client, number: str) -> None:
    body = f'{{"model": {{"uri": "hf://org/name"}}, "target": {{"kind": "layers", "ratio": {number}}}}}'
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    expected = "too large" if number == "1e999" else f"{number}, which is no JSON"
    assert expected in response.json()["detail"]


@pytest.mark.parametrize("ratio", ["0", "1", "-1", '"abc"'])
def test_a_ratio_that_is_none_is_refused_where_it_stands(client: httpx.Client, ratio: str) -> None:
    body = f'{{"model": {{"uri": "hf://org/name"}}, "target": {{"kind": "layers", "ratio": {ratio}}}}}'
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert [error["pointer"] for error in response.json()["errors"]] == ["/target/ratio"]
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("change", "pointers"),
    [
        ({"target": None}, [""]),
        ({"model": {}}, ["/model/uri"]),
        ({"model": {"uri": "s3://bucket/x"}}, ["/model/uri"]),
        ({"a/b~c": 1}, ["/a~1b~0c"]),
        ({"method": {"segments": "many"}}, ["/method/segments", "/method/segments"]),
        ({"method": {"protected": [0, "x"]}}, ["/method/protected/1"]),
        ({"mode": "x", "deadline_seconds": 0}, ["/mode", "/deadline_seconds"]),
        ({"target": {"kind": "bytes", "ratio": 0.5}}, ["/target/kind"]),
        ({"target": {"ratio": 0.5}}, ["/target/kind"]),
        ({"target": {"kind": "parameters"}}, ["/target/ratio"]),
        ({"target": {"kind": "layers", "ratio": None}}, ["/target"]),
        ({"target": {"kind": "layers", "count": 0, "left": "x"}}, ["/target/count", "/target/left"]),
        ({"target": {"kind": "plan", "remove": [1, "x"]}}, ["/target/remove/1"]),
        ({"target": {"kind": "plan", "layers": 4, "keep": [4]}}, ["/target/keep"]),
        ({"target": {"kind": "layers", "ratio": 0.5, "layers": 1}}, ["/target/layers"]),
        ({"target": {"kind": "quality", "metric": "accuracy", "max_drop": 2}}, ["/target/max_drop"]),
        ({"target": {"kind": "quality", "metric": "kl"}}, ["/target/metric", "/target/max_drop"]),
        ({"mode": "sweep", "target": {"kind": "sweep", "ratios": [0.1, 2]}}, ["/target/ratios/1"]),
        ({"target": {"kind": "sweep", "ratios": [0.1]}}, [""]),
    ],
    ids=str,
)
def test_every_mistake_is_pointed_at(client: httpx.Client, change: dict[str, Any], pointers: list[str]) -> None:
    response = client.post("/v1/jobs", json={**SPEC, **change})
    assert response.status_code == 422
    assert sorted(error["pointer"] for error in response.json()["errors"]) == sorted(pointers)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'"x"', b"null"])
def test_what_is_no_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in {400, 422}
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("text", ["\\ud800", "\\u0000"])
def test_metadata_that_cannot_be_stored_or_read_back_is_refused(client: httpx.Client, text: str) -> None:
    body = f'{{"model": {{"uri": "hf://a/b"}}, "mode": "analyze", "metadata": {{"x": "{text}"}}}}'
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert [error["pointer"] for error in response.json()["errors"]] == ["/metadata"]
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("path", ["%00", "job_%00", "%F0%9F%98%80", "job_" + "A" * 26])
def test_what_is_no_id_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(f"/v1/jobs/{path}").status_code == 404


def test_a_path_outside_the_roots_is_refused_with_its_code(client: httpx.Client) -> None:
    response = client.post("/v1/jobs", json={**SPEC, "model": {"uri": "file:///etc/passwd"}})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "source_forbidden")
    assert problem["errors"][0]["pointer"] == "/model/uri"
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize("uri", ["s3://bucket/model", "https://169.254.169.254/latest", "gs://bucket/x", "az://c/x"])
def test_a_place_that_the_service_does_not_read_is_refused_with_its_code(client: httpx.Client, uri: str) -> None:
    response = client.post("/v1/jobs", json={**SPEC, "model": {"uri": uri}})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "source_forbidden")
    assert problem["errors"][0]["pointer"] == "/model/uri"


def test_calibration_and_evaluation_paths_are_checked_too(client: httpx.Client, tmp_path: Path) -> None:
    for part in ("calibration", "evaluation"):
        response = client.post("/v1/jobs", json={**SPEC, part: {"source": "file:///etc/passwd"}})
        assert response.json()["errors"][0]["pointer"] == f"/{part}/source"


def test_a_large_body_is_refused(client: httpx.Client) -> None:
    response = client.post("/v1/jobs", json={**SPEC, "metadata": {"x": "y" * 70_000}})
    assert (response.status_code, response.headers["Content-Type"]) == (413, "application/problem+json")


def test_a_large_body_of_unknown_length_is_refused(client: httpx.Client) -> None:
    chunks = (b" " * 1000 for _ in range(100))
    response = client.post("/v1/jobs", content=chunks, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.headers["Content-Type"]) == (413, "application/problem+json")


def test_jobs_are_listed_newest_first_page_by_page(client: httpx.Client, submit: Submit) -> None:
    ids = sorted((submit() for _ in range(5)), reverse=True)
    first = client.get("/v1/jobs", params={"limit": 3}).json()
    second = client.get("/v1/jobs", params={"limit": 3, "after": first["next_cursor"]}).json()
    assert [job["id"] for job in first["data"] + second["data"]] == ids
    assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)


def test_jobs_are_filtered_by_status(client: httpx.Client, submit: Submit) -> None:
    job_id = submit()
    submit()
    client.post(f"/v1/jobs/{job_id}/cancel")
    cancelled = client.get("/v1/jobs", params={"status": "cancelled"}).json()["data"]
    assert [job["id"] for job in cancelled] == [job_id]


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"status": "x"}, {"after": "%"}, {"after": "é"}, {"after": "AA=="}],
    ids=str,
)
def test_a_query_that_does_not_fit_names_the_parameter(client: httpx.Client, query: dict[str, Any]) -> None:
    response = client.get("/v1/jobs", params=query)
    assert response.status_code == 422
    assert [error["parameter"] for error in response.json()["errors"]] == list(query)


def test_a_waiting_job_is_cancelled_at_once_and_again(client: httpx.Client, submit: Submit) -> None:
    job_id = submit()
    for _ in range(2):
        response = client.post(f"/v1/jobs/{job_id}/cancel")
        assert (response.status_code, response.json()["status"]) == (200, "cancelled")


def test_a_running_job_is_being_cancelled(
    client: httpx.Client, submit: Submit, sessions: sessionmaker[Session]
) -> None:
    job_id = submit()
    with transaction(sessions) as session:
        ClaimRepository(session).claim(job_id, worker="w", gpu_class="default", lease_seconds=60)
    for _ in range(2):
        response = client.post(f"/v1/jobs/{job_id}/cancel")
        assert (response.status_code, response.json()["status"]) == (202, "cancelling")


def test_a_finished_job_cannot_be_cancelled(
    client: httpx.Client, submit: Submit, finish: Callable[[str], None]
) -> None:
    job_id = submit()
    finish(job_id)
    response = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, response.json()["title"]) == (409, "Conflict")


def test_events_come_in_order_page_by_page(client: httpx.Client, submit: Submit, finish: Callable[[str], None]) -> None:
    job_id = submit()
    finish(job_id)
    first = client.get(f"/v1/jobs/{job_id}/events", params={"limit": 2}).json()
    second = client.get(f"/v1/jobs/{job_id}/events", params={"after": 2}).json()
    events = [(event["seq"], event["type"]) for event in first["data"] + second["data"]]
    assert events == [(1, "queued"), (2, "running"), (3, "succeeded")]
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize(
    "place", ["", "/events", "/artifacts", "/artifacts/x", "/artifacts.tar", "/similarity", "/layers", "/report"]
)
def test_an_unknown_job_is_not_found_anywhere(client: httpx.Client, place: str) -> None:
    response = client.get(f"/v1/jobs/job_unknown{place}")
    assert (response.status_code, response.json()["detail"]) == (404, "there is no job job_unknown")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/", 404), ("DELETE", "/v1/jobs", 405), ("PUT", "/livez", 405)],
)
def test_the_routers_own_errors_are_problems(client: httpx.Client, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.headers["Content-Type"] == "application/problem+json"


def test_probes_and_architectures(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    assert "LlamaForCausalLM" in {row["class"] for row in client.get("/v1/architectures").json()["tested"]}


def test_the_openapi_document_names_every_route(client: httpx.Client) -> None:
    paths = set(client.get("/openapi.json").json()["paths"])
    assert paths >= {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/artifacts/{name}", "/readyz"}


def test_a_job_of_a_later_release_is_shown_as_it_is_and_not_retried(
    client: httpx.Client, sessions: sessionmaker[Session], submit: Callable[[], str]
) -> None:
    job_id = submit()
    with transaction(sessions) as session:
        job = session.get_one(Job, job_id)
        job.spec = {**job.spec, "of_tomorrow": 1}
    shown = client.get(f"/v1/jobs/{job_id}")
    assert (shown.status_code, shown.json()["spec"]["of_tomorrow"]) == (200, 1)
    assert client.get("/v1/jobs").json()["data"][0]["spec"] == shown.json()["spec"]
    assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    assert client.post(f"/v1/jobs/{job_id}/retry").status_code == 409
