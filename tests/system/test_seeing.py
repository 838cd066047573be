"""What operators see of one job: logs, the audit trail, metrics."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.services.postgresql import PostgreSQL
from tests.services.stack import Stack, running_stack
from tests.services.traces import ReceivedSpan, trace_receiver
from tests.worker.tiny_model import tiny_spec

REQUEST_ID = "pipeline-4711"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def traces() -> Iterator[tuple[str, list[ReceivedSpan]]]:
    with trace_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory,
    models: Path,
    postgresql_server: PostgreSQL,
    redis_url: str,
    traces: tuple[str, list[ReceivedSpan]],
) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("stack")
    with running_stack(
        directory,
        database_url=postgresql_server.database(),
        broker_url=redis_url,
        artifact_url=(directory / "artifacts").as_uri(),
        model_roots=[str(models)],
        otlp_endpoint=traces[0],
    ) as running:
        yield running


@pytest.fixture(scope="module")
def job(stack: Stack, models: Path) -> dict[str, Any]:
    """A job that has ended, submitted under a request id of the client's."""
    stack.start_worker()
    answer = httpx.post(
        f"http://127.0.0.1:{stack.port}/v1/jobs",
        json=tiny_spec(models / "model", models / "text.txt", mode="analyze", target=None),
        headers={"X-Request-Id": REQUEST_ID, "traceparent": f"00-{TRACE}-{CALLER}-01"},
    )
    job = stack.wait_for_end(answer.raise_for_status().json()["id"])
    assert job["status"] == "succeeded", stack.logs()
    return job


def lines(stack: Stack) -> list[dict[str, Any]]:
    """Every line of every log; one that is no JSON fails here."""
    text = [line for line in stack.logs().splitlines() if line.strip() and not line.startswith("== ")]
    assert [line for line in text if not line.startswith("{")] == []
    return [json.loads(line) for line in text]


def test_every_line_is_an_event_and_says_whose_it_is(stack: Stack, job: dict[str, Any]) -> None:
    logged = lines(stack)
    assert {line["service"] for line in logged} == {"api", "scheduler", "worker"}
    assert all(line["timestamp"].endswith("Z") and line["level"] and line["event"] for line in logged)
    # Libraries' own records come in the same form.
    assert {line["logger"].partition(".")[0] for line in logged} >= {"api", "worker", "uvicorn", "celery"}
    attempt = [line for line in logged if line.get("job_id") == job["id"]]
    events = [line["event"] for line in attempt if line["event"] != "a result was stored"]
    assert events[:2] == ["an attempt starts", "the child ended"]
    assert {(line["attempt"], line["fence"]) for line in attempt} == {(1, 1)}


def test_metrics_say_what_the_job_did(stack: Stack, job: dict[str, Any]) -> None:
    text = httpx.get(f"http://127.0.0.1:{stack.port}/metrics").text
    values = {(s.name, *s.labels.values()): s.value for f in text_string_to_metric_families(text) for s in f.samples}
    events = list(stack.client.events(job["id"]))
    phases = [event["data"]["phase"] for event in events if event["type"] == "phase"]
    counted = {key[1]: value for key, value in values.items() if key[0] == "sglp_phase_duration_seconds_count"}
    assert counted == dict.fromkeys(phases, 1)
    took = sum(value for key, value in values.items() if key[0] == "sglp_phase_duration_seconds_sum")
    running = datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["started_at"])
    # Before the first phase, the job's process starts and imports its libraries.
    assert 0 < took <= running.total_seconds()
    assert values["sglp_jobs_ended_total", "succeeded"] == 1
    stored = sum(artifact["size_bytes"] for artifact in stack.client.artifacts(job["id"]))
    assert values["sglp_artifact_stored_bytes_total",] == values["sglp_artifact_kept_bytes",] == stored
    assert values["sglp_http_requests_total", "POST", "/v1/jobs", "202"] == 1


def test_a_request_is_told_by_its_route(stack: Stack, job: dict[str, Any]) -> None:
    requests = [line for line in lines(stack) if line["event"] == "request"]
    (submitted,) = [line for line in requests if line["request_id"] == REQUEST_ID]
    assert 0 < submitted.pop("duration_seconds") < 60
    assert {name: submitted[name] for name in ("method", "route", "status", "tenant", "subject")} == {
        "method": "POST",
        "route": "/v1/jobs",
        "status": 202,
        "tenant": "default",
        "subject": job["id"],
    }
    assert {line["route"] for line in requests} >= {"/v1/jobs/{job_id}"}
    assert len({line["request_id"] for line in requests}) == len(requests)


def test_one_trace_leads_from_the_caller_through_all_processes(
    stack: Stack, job: dict[str, Any], traces: tuple[str, list[ReceivedSpan]]
) -> None:
    received = traces[1]
    give_up = time.monotonic() + 30
    # Sent in batches every few seconds; the worker's comes last.
    while not any(span.name == "attempt" for span in received):
        assert time.monotonic() < give_up, received
        time.sleep(0.2)
    mine = {span.id: span for span in received if span.trace_id == TRACE}
    (submitted,) = [span for span in mine.values() if span.name == "POST /v1/jobs"]
    (attempt,) = [span for span in mine.values() if span.name == "attempt"]
    (process,) = [span for span in mine.values() if span.name == "analyze"]
    assert [span.service for span in (submitted, attempt, process)] == ["sglp-api", "sglp-worker", "sglp-worker"]
    assert [span.parent for span in (submitted, attempt, process)] == [CALLER, submitted.id, attempt.id]
    assert submitted.facts["request_id"] == REQUEST_ID
    assert {name: attempt.facts[name] for name in ("job_id", "attempt", "fence")} == {
        "job_id": job["id"],
        "attempt": 1,
        "fence": 1,
    }
    phases = [span for span in mine.values() if span.parent == process.id]
    phases_of_events = [event["data"]["phase"] for event in stack.client.events(job["id"]) if event["type"] == "phase"]
    assert {span.name for span in phases} == {"starting", *phases_of_events}
    assert sum(span.seconds for span in phases) <= process.seconds <= attempt.seconds
    assert len(mine) == 3 + len(phases)
    assert {line["trace_id"] for line in lines(stack) if line.get("job_id") == job["id"]} == {TRACE}
