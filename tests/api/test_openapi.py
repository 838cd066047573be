"""The OpenAPI document: a snapshot that changes only on purpose, and what it must say."""

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import make_app
from jobs.database import migrate
from jobs.settings import Settings
from jobs.spec import EXAMPLES, JobSpec

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """One way of running it is enough: no database decides this."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url)
    return Settings(database_url=url, artifact_url=(tmp_path / "artifacts").as_uri())


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    return make_app(settings).openapi()


def test_the_snapshot_is_up_to_date(document: dict[str, Any]) -> None:
    """`UPDATE_SNAPSHOT=1 pytest tests/api/test_openapi.py` renews it."""
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(text)
    assert SNAPSHOT.read_text() == text


def test_every_error_is_described_as_a_problem(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert list(operation["responses"]["4XX"]["content"]) == ["application/problem+json"], path
            assert operation["description"], path


def test_links_lead_to_operations_that_are_there(document: dict[str, Any]) -> None:
    operations = {each["operationId"] for path in document["paths"].values() for each in path.values()}
    linked = document["paths"]["/v1/jobs"]["post"]["responses"]["202"]["links"]
    assert {link["operationId"] for link in linked.values()} <= operations


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_a_job(client: httpx.Client, number: int) -> None:
    JobSpec.model_validate(EXAMPLES[number])


def test_metrics_say_what_the_database_says(client: httpx.Client) -> None:
    spec = {"mode": "analyze", "model": {"uri": "hf://org/name"}, "gpu_class": "default"}
    ids = [client.post("/v1/jobs", json=spec).json()["id"] for _ in range(3)]
    client.post(f"/v1/jobs/{ids[0]}/cancel")
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'sglp_jobs{state="queued"} 2.0' in lines
    assert 'sglp_jobs{state="cancelled"} 1.0' in lines
    assert 'sglp_jobs{state="running"} 0.0' in lines
    (age,) = [
        float(line.split()[1]) for line in lines if line.startswith('sglp_queue_age_seconds{gpu_class="default"}')
    ]
    assert 0 <= age < 120
    assert not any(job_id in answer.text for job_id in ids)
