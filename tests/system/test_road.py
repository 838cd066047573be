"""A model goes in over HTTP, a verified smaller one comes out."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sglp_client import SGLP

from jobs.results import LayerRow, Similarity
from tests.described import require_described, require_exact
from tests.services.stack import Stack
from tests.worker.tiny_model import LAYERS, tiny_spec


@pytest.fixture(scope="module")
def job(stack: Stack, models: Path) -> dict[str, Any]:
    """A compression that has ended."""
    stack.start_worker()
    submitted = stack.client.submit(tiny_spec(models / "model", models / "text.txt"))
    return stack.wait_for_end(submitted["id"])


def test_the_job_succeeds_with_one_end(stack: Stack, job: dict[str, Any]) -> None:
    assert (job["status"], job["error"], job["attempt"]) == ("succeeded", None, 1), stack.logs()
    kinds = stack.event_types(job["id"])
    assert (kinds[0], kinds[-1], kinds.count("succeeded")) == ("queued", "succeeded", 1)
    phases = [event["data"]["phase"] for event in stack.client.events(job["id"]) if event["type"] == "phase"]
    assert phases[:5] == ["fetching", "opening", "calibrating", "measuring", "planning"]
    assert phases[-1] == "publishing"


def test_the_job_shows_what_is_described(stack: Stack, job: dict[str, Any]) -> None:
    require_described(job, stack.client.events(job["id"]))


def test_the_job_says_what_it_read_and_removed(job: dict[str, Any]) -> None:
    assert job["resolved"]["class"] == "LlamaForCausalLM"
    plan = job["plan"]
    assert plan["achieved"] == pytest.approx(len(plan["removed_layers"]) / LAYERS)
    assert plan["achieved"] >= plan["requested"]


def test_the_download_loads_in_another_process_as_many_layers_smaller(
    stack: Stack, job: dict[str, Any], tmp_path: Path
) -> None:
    directory = stack.client.download(job["id"], tmp_path)
    program = (
        "import sys; from transformers import AutoModelForCausalLM\n"
        "model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not any(info.values()), info\n"
        "print(len(model.model.layers), model.config.num_hidden_layers)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, directory / "model"], check=True, capture_output=True, text=True
    ).stdout
    left = LAYERS - len(job["plan"]["removed_layers"])
    assert found.split() == [str(left), str(left)]


def test_the_manifest_is_true(stack: Stack, job: dict[str, Any], tmp_path: Path) -> None:
    directory = stack.client.download(job["id"], tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text())
    listed = {artifact["name"]: artifact["sha256"] for artifact in stack.client.artifacts(job["id"])}
    assert {file["name"]: file["sha256"] for file in manifest["files"]} == {
        name: sha256 for name, sha256 in listed.items() if name != "manifest.json"
    }


def test_the_tar_is_the_model_directory(stack: Stack, job: dict[str, Any], tmp_path: Path) -> None:
    directory = stack.client.download(job["id"], tmp_path)
    content = httpx.get(f"http://127.0.0.1:{stack.port}/v1/jobs/{job['id']}/artifacts.tar").content
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert found == {
        file.relative_to(directory).as_posix(): file.read_bytes() for file in (directory / "model").iterdir()
    }


def test_matrix_layers_and_report_agree(stack: Stack, job: dict[str, Any], tmp_path: Path) -> None:
    directory = stack.client.download(job["id"], tmp_path)
    matrix = np.array(stack.client.similarity(job["id"])["matrix"], dtype="f4")
    assert np.array_equal(matrix, np.load(directory / "similarity.npz")["similarity"])
    layers = httpx.get(f"http://127.0.0.1:{stack.port}{job['links']['layers']}").json()["data"]
    for row in layers:
        require_exact(LayerRow, row)
    require_exact(Similarity, stack.client.similarity(job["id"]))
    assert [row["index"] for row in layers if row["removed"]] == job["plan"]["removed_layers"]
    assert stack.client.report(job["id"]) == json.loads((directory / "report.json").read_text())


def test_an_analysis_removes_nothing(stack: Stack, models: Path, job: dict[str, Any]) -> None:
    spec = tiny_spec(models / "model", models / "text.txt", mode="analyze")
    del spec["target"]
    analysis = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (analysis["status"], analysis["plan"]) == ("succeeded", None), stack.logs()
    require_described(analysis, stack.client.events(analysis["id"]))
    assert not any(artifact["name"].startswith("model/") for artifact in stack.client.artifacts(analysis["id"]))
    assert stack.client.similarity(analysis["id"]) == stack.client.similarity(job["id"])


def test_nothing_is_left_on_the_workers_disk(stack: Stack, job: dict[str, Any]) -> None:
    assert stack.work_files() == []


def test_another_sdk_sees_the_job(stack: Stack, job: dict[str, Any]) -> None:
    with SGLP(f"http://127.0.0.1:{stack.port}") as other:
        assert job["id"] in [listed["id"] for listed in other.list(status="succeeded")]
