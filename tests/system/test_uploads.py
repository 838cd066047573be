"""A model and its calibration text go up, a job reads them, and its result goes where its tenant wants it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from sglp_client import SGLPProblem
from transformers import AutoModelForCausalLM

from jobs.artifacts import open_store
from tests.services.postgresql import PostgreSQL
from tests.services.s3 import S3
from tests.services.stack import Stack, running_stack
from tests.services.writable_hub import WritableHub, writable_hub
from tests.worker.tiny_model import LAYERS, tiny_spec, write_text


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that results may be pushed to."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def model_hub() -> Iterator[WritableHub]:
    """A hub that takes commits, and workers that speak Git LFS to it: its own protocol has no server that runs here."""
    with pytest.MonkeyPatch.context() as patch, writable_hub() as server:
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, models: Path, results: Path, postgresql_server: PostgreSQL,
    redis_url: str, s3_server: S3, model_hub: WritableHub,
) -> Iterator[Stack]:  # fmt: skip
    directory = tmp_path_factory.mktemp("stack")
    wrong = {**s3_server.options, "secret_access_key": "canary-secret"}
    with running_stack(
        directory,
        database_url=postgresql_server.database(),
        broker_url=redis_url,
        artifact_url=f"{s3_server.url}/{directory.name}",
        artifact_options=s3_server.options,
        model_roots=[str(models)],
        output_destinations=[
            {"prefix": results.as_uri()},
            {"prefix": f"{s3_server.url}/{directory.name}-pushed", "options": s3_server.options},
            {"prefix": f"{s3_server.url}/forbidden", "options": wrong},
            {"prefix": "hf://team", "options": {"token": model_hub.token, "endpoint": model_hub.url}},
        ],
    ) as running:
        yield running


def spec_of(uploads: dict[str, Any], models: Path, text: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = tiny_spec(models / "model", models / "text.txt", mode="analyze")
    del spec["target"]
    calibration = {**spec["calibration"], "source": (text or uploads["dataset"])["uri"]}
    return {**spec, "model": {"uri": uploads["model"]["uri"]}, "calibration": calibration}


@pytest.fixture(scope="module")
def uploads(stack: Stack, models: Path) -> dict[str, Any]:
    """A model and a dataset, by their kinds, as the SDK sends them."""
    stack.start_worker()
    return {
        "model": stack.client.upload(sorted((models / "model").iterdir()), kind="model", name="tiny"),
        "dataset": stack.client.upload([models / "text.txt"], kind="dataset"),
    }


def test_a_job_heals_on_an_uploaded_file(stack: Stack, uploads: dict[str, Any], models: Path, tmp_path: Path) -> None:
    own = stack.client.upload([write_text(tmp_path / "own.txt", lines=300)], kind="dataset")
    healing = {"steps": 2, "source": own["uri"], "batch_size": 3}
    job_id = stack.client.submit(tiny_spec(models / "model", models / "text.txt", healing=healing))["id"]
    assert stack.wait_for_end(job_id)["status"] == "succeeded", stack.logs()
    healed = stack.client.report(job_id)["healing"]
    assert (healed["source"], healed["trained_windows"]) == (own["uri"], 6)
    judged = [event["data"] for event in stack.client.events(job_id) if event["type"] == "judged"]
    speeds = [judgement.pop("samples_per_second") for judgement in judged]
    assert judged == healed["curve"]
    assert [point["step"] for point in judged] == [0, 1, 2]
    assert speeds[0] is None
    assert min(speeds[1:]) > 0


def test_a_job_reads_its_uploads_and_leaves_no_copy(stack: Stack, models: Path, uploads: dict[str, Any]) -> None:
    job = stack.wait_for_end(stack.client.submit(spec_of(uploads, models))["id"])
    assert (job["status"], job["error"]) == ("succeeded", None), stack.logs()
    assert job["resolved"]["class"] == "LlamaForCausalLM"
    assert len(stack.client.similarity(job["id"])["layers"]) == LAYERS
    assert job["spec"]["model"]["uri"] == uploads["model"]["uri"]
    report = stack.client.report(job["id"])
    assert report["calibration"]["source"] == uploads["dataset"]["uri"]
    assert "/work/" not in str(job) + str(report)
    assert stack.work_files() == []


def test_an_upload_that_was_changed_in_the_store_is_not_read(
    stack: Stack, models: Path, uploads: dict[str, Any]
) -> None:
    upload = stack.client.upload([models / "text.txt"], kind="dataset")
    store = open_store(stack.read_settings())
    size = (models / "text.txt").stat().st_size
    obstore.put(store._store, f"uploads/{upload['id']}/text.txt", b"x" * size)
    job = stack.wait_for_end(stack.client.submit(spec_of(uploads, models, upload))["id"])
    assert job["error"]["code"] == "bad_calibration", stack.logs()
    assert upload["uri"] in job["error"]["message"]


def test_data_that_the_method_cannot_read_is_told_by_its_uri(
    stack: Stack, models: Path, uploads: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    empty = stack.client.upload([tmp_path / "empty.txt"], kind="dataset")
    job = stack.wait_for_end(stack.client.submit(spec_of(uploads, models, empty))["id"])
    assert job["error"]["code"] == "bad_calibration"
    assert empty["uri"] in job["error"]["message"]
    assert "file://" not in job["error"]["message"]


def test_the_sdk_sends_to_the_store_and_is_held_to_the_file(stack: Stack, models: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    content = (models / "text.txt").read_bytes()
    upload = stack.client.upload([models / "text.txt"], kind="dataset", on_bytes=seen.append)
    assert (upload["status"], sum(seen)) == ("ready", len(content))
    assert upload["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert next(stack.client.uploads())["id"] == upload["id"]
    stack.client.delete_upload(upload["id"])
    assert upload["id"] not in [each["id"] for each in stack.client.uploads()]


def test_the_result_is_pushed_before_the_job_has_succeeded(
    stack: Stack, models: Path, results: Path, uploads: dict[str, Any]
) -> None:
    uri = f"{results.as_uri()}/nightly/tiny"
    job = stack.wait_for_end(stack.client.submit({**spec_of(uploads, models), "output": {"uri": uri}})["id"])
    assert (job["status"], job["result"]["output"]["uri"]) == ("succeeded", uri), (job["error"], stack.logs())
    artifacts = {each["name"]: each["sha256"] for each in stack.client.artifacts(job["id"])}
    assert {each["name"]: each["sha256"] for each in job["result"]["output"]["files"]} == artifacts
    folder = results / "nightly" / "tiny"
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found == artifacts
    assert job["spec"]["output"]["uri"] == uri


def test_a_result_on_a_hub_is_one_commit_that_stock_classes_load(
    stack: Stack, models: Path, model_hub: WritableHub, uploads: dict[str, Any], tmp_path: Path
) -> None:
    spec = tiny_spec(models / "model", models / "text.txt", output={"uri": "hf://team/tiny-small"})
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert job["status"] == "succeeded", job["error"]
    repository = model_hub.repositories["team/tiny-small"]
    assert list(repository.commits) == [job["result"]["output"]["commit"]]
    for name, content in repository.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert (model.config.num_hidden_layers, info["missing_keys"]) == (LAYERS // 2, set())
    assert hashlib.sha256(repository.files["sglp/report.json"]).hexdigest() in {
        each["sha256"] for each in stack.client.artifacts(job["id"])
    }
    assert model_hub.token not in stack.logs() + str(list(stack.client.events(job["id"])))


def test_a_result_that_may_not_go_there_is_kept_here(stack: Stack, models: Path, uploads: dict[str, Any]) -> None:
    spec = {**spec_of(uploads, models), "output": {"uri": "s3://artifacts/forbidden/a"}}
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (job["status"], job["error"]["code"], job["error"]["phase"]) == ("failed", "source_forbidden", "publishing")
    assert "s3://artifacts/forbidden/a" in job["error"]["message"]
    assert "canary" not in str(job) + stack.logs()
    assert {"manifest.json", "report.json"} <= {each["name"] for each in stack.client.artifacts(job["id"])}


def test_a_place_that_is_not_on_the_list_is_refused_at_once(
    stack: Stack, models: Path, uploads: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(SGLPProblem) as caught:
        stack.client.submit({**spec_of(uploads, models), "output": {"uri": tmp_path.as_uri()}})
    assert (caught.value.status, caught.value.problem["code"]) == (422, "source_forbidden")
    assert caught.value.problem["errors"][0]["pointer"] == "/output/uri"
