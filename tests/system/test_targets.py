"""Jobs over HTTP beyond one ratio: a budget of lost quality, a sweep, an estimate; and an analysis that is reused."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.described import require_described
from tests.services.stack import Stack
from tests.worker.tiny_model import LAYERS, tiny_spec

LOOSE = 10.0


@pytest.fixture(scope="module")
def sweep(stack: Stack, models: Path) -> dict[str, Any]:
    """A sweep that has ended."""
    stack.start_worker()
    target = {"kind": "sweep", "of": "layers", "ratios": [0.3, 0.1]}
    spec = tiny_spec(models / "model", models / "text.txt", mode="sweep", target=target)
    return stack.wait_for_end(stack.client.submit(spec)["id"])


def test_a_sweep_gives_a_table_and_a_picture_and_no_model(stack: Stack, sweep: dict[str, Any], tmp_path: Path) -> None:
    assert (sweep["status"], sweep["error"], sweep["plan"]) == ("succeeded", None, None), stack.logs()
    require_described(sweep, stack.client.events(sweep["id"]))
    points = sweep["result"]["sweep"]["points"]
    assert [(point["requested"], point["layers"]) for point in points] == [(0, LAYERS), (0.1, LAYERS - 1), (0.3, 4)]
    names = {artifact["name"]: artifact["media_type"] for artifact in stack.client.artifacts(sweep["id"])}
    assert names["sweep.png"] == "image/png"
    assert not any(name.startswith("model/") for name in names)
    directory = stack.client.download(sweep["id"], tmp_path)
    assert (directory / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert stack.client.report(sweep["id"])["sweep"] == sweep["result"]["sweep"]
    address = f"http://127.0.0.1:{stack.port}{sweep['links']['report']}"
    assert "## Sweep" in httpx.get(address, headers={"Accept": "text/markdown"}).text
    assert f"{sweep['links']['artifacts']}/sweep.png" in httpx.get(address, headers={"Accept": "text/html"}).text
    assert httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs/{sweep['id']}/artifacts.tar").status_code == 404


def test_a_quality_target_takes_the_sweeps_analysis_and_keeps_within_its_budget(
    stack: Stack, models: Path, sweep: dict[str, Any]
) -> None:
    target = {"kind": "quality", "metric": "perplexity", "max_drop": LOOSE}
    spec = tiny_spec(models / "model", models / "text.txt", target=target)
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (job["status"], job["error"]) == ("succeeded", None), stack.logs()
    require_described(job, stack.client.events(job["id"]))
    assert job["spec"]["target"] == target
    found = job["result"]["quality_target"]
    assert found["search"]["drop"] <= LOOSE
    # So loose a budget lets every layer go but the first and the last.
    assert job["plan"]["removed_layers"] == found["search"]["removed_layers"] == [1, 2, 3, 4]
    after = next(row["after"] for row in job["result"]["table"] if row["metric"] == "perplexity")
    assert found["verified"]["value"] == after

    first, second = (stack.client.report(each["id"])["analysis"] for each in (sweep, job))
    assert (first["reused"], second["reused"], first["key"]) == (False, True, second["key"])
    phases = [event["data"]["phase"] for event in stack.client.events(job["id"]) if event["type"] == "phase"]
    assert "measuring" not in phases


def test_a_budget_that_one_layer_breaks_fails_the_job_by_name(
    stack: Stack, models: Path, sweep: dict[str, Any]
) -> None:
    target = {"kind": "quality", "metric": "agreement", "max_drop": 0.0}
    spec = tiny_spec(models / "model", models / "text.txt", target=target)
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "target_unreachable"), stack.logs()
    assert "the smallest loss found is" in job["error"]["message"]
    assert job["error"]["phase"] == "planning"


def test_a_plan_is_applied_and_published_as_the_target_that_it_was(stack: Stack, models: Path, tmp_path: Path) -> None:
    stack.start_worker()
    target = {"kind": "plan", "layers": LAYERS, "remove": [2, 3]}
    spec = tiny_spec(models / "model", models / "text.txt", target=target)
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (job["status"], job["error"], job["spec"]["target"]) == ("succeeded", None, target), stack.logs()
    require_described(job, stack.client.events(job["id"]))
    assert (job["plan"]["removed_layers"], job["plan"]["exact"]) == ([2, 3], True)
    phases = [event["data"]["phase"] for event in stack.client.events(job["id"]) if event["type"] == "phase"]
    assert "measuring" not in phases
    assert httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs/{job['id']}/similarity").status_code == 404
    directory = stack.client.download(job["id"], tmp_path)
    assert json.loads((directory / "plan.json").read_text()) == target


def test_an_estimate_says_what_a_job_would_take_and_measures_nothing(stack: Stack, models: Path) -> None:
    stack.start_worker()
    spec = tiny_spec(models / "model", models / "text.txt", mode="estimate")
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (job["status"], job["error"], job["plan"]) == ("succeeded", None, None), stack.logs()
    require_described(job, stack.client.events(job["id"]))
    assert (job["result"]["estimate"]["layers"], job["result"]["estimate"]["target"]["reachable"]) == (LAYERS, True)
    assert stack.client.report(job["id"])["estimate"] == job["result"]["estimate"]
    phases = [event["data"]["phase"] for event in stack.client.events(job["id"]) if event["type"] == "phase"]
    assert phases == ["fetching", "planning", "publishing"]
    address = f"http://127.0.0.1:{stack.port}/v1/jobs/{job['id']}"
    assert "Peak memory about" in httpx.get(f"{address}/report", headers={"Accept": "text/markdown"}).text
    assert httpx.get(f"{address}/similarity").status_code == 404
