"""Input that cannot become a smaller model: a failed job with a code of the list, nothing run, nothing left behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.artifacts import open_store
from tests.services import bad_models
from tests.services.stack import Stack
from tests.worker.tiny_model import tiny_spec, write_tiny_model

# At least one of each code; more are told apart without the service (`tests/hostile`, `tests/sglp_core`).
EXPECTED = {
    "missing model": ("model_not_found", "no file or directory"),
    "link that leaves": ("source_forbidden", "roots"),
    "weights that leave": ("source_forbidden", "roots"),
    "pickle named safetensors": ("unsafe_format", "pickle"),
    "archive named safetensors": ("unsafe_format", "pickle or an archive"),
    "only pickle weights": ("unsafe_format", "save_pretrained"),
    "pickle named gguf": ("unsafe_format", "pickle"),
    "endless header": ("unsafe_format", "header"),
    "truncated gguf": ("unsafe_format", "truncated.gguf"),
    "no layer stack": ("unsupported_architecture", "looked for"),
    "unreachable target": ("target_unreachable", "largest"),
    "layers of another model": ("bad_layers", "/target/remove/1 is 40"),
    "missing calibration": ("bad_calibration", "no file or directory"),
    "empty calibration": ("bad_calibration", "no text"),
    "calibration of another kind": ("bad_calibration", ".txt"),
}
Submit = Callable[..., str]


@pytest.fixture(scope="module")
def canary(models: Path) -> Path:
    """Where unpickling any of the pickles would leave a file."""
    return models.parent / "canary"


@pytest.fixture(scope="module")
def ended(
    stack: Stack, models: Path, canary: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """Every bad input as a job that has ended, by its name in `EXPECTED`."""
    good, text, outside = models / "model", models / "text.txt", tmp_path_factory.mktemp("outside")
    write_tiny_model(outside)
    empty, other = models / "empty.txt", models / "other.docx"
    empty.write_text(" \n")
    other.write_text("the cat sat")

    def data(source: Path) -> dict[str, Any]:
        return {"calibration": {**tiny_spec(good, text)["calibration"], "source": source.as_uri()}}

    specs = {
        "missing model": tiny_spec(models / "none", text),
        "link that leaves": tiny_spec(bad_models.link_that_leaves(models, outside), text),
        "weights that leave": tiny_spec(bad_models.weights_that_leave(good, models, outside), text),
        "pickle named safetensors": tiny_spec(bad_models.pickle_named_safetensors(good, models, canary), text),
        "archive named safetensors": tiny_spec(bad_models.torch_archive_named_safetensors(good, models, canary), text),
        "only pickle weights": tiny_spec(bad_models.only_pickle_weights(good, models, canary), text),
        "pickle named gguf": tiny_spec(bad_models.pickle_named_gguf(models, canary), text),
        "endless header": tiny_spec(bad_models.endless_header(good, models), text),
        "truncated gguf": tiny_spec(bad_models.truncated_gguf(models), text),
        "no layer stack": tiny_spec(bad_models.without_a_stack(models), text),
        "unreachable target": tiny_spec(good, text, target={"kind": "parameters", "ratio": 0.99}),
        "layers of another model": tiny_spec(good, text, target={"kind": "plan", "remove": [2, 40]}),
        "missing calibration": tiny_spec(good, text, **data(models / "none.txt")),
        "empty calibration": tiny_spec(good, text, **data(empty)),
        "calibration of another kind": tiny_spec(good, text, **data(other)),
    }
    for _ in range(2):
        stack.start_worker()
    jobs = {name: stack.client.submit(spec)["id"] for name, spec in specs.items()}
    return {name: stack.wait_for_end(job_id, seconds=300) for name, job_id in jobs.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_fails_with_its_code_and_says_why(ended: dict[str, dict[str, Any]], stack: Stack, name: str) -> None:
    job = ended[name]
    code, word = EXPECTED[name]
    assert job["status"] == "failed"
    assert job["error"]["code"] == code, (job["error"], stack.logs()[-3000:])
    assert word in job["error"]["message"]
    assert job["error"]["retryable"] is False
    assert "Traceback" not in job["error"]["message"]


def test_nothing_of_a_model_was_run(ended: dict[str, dict[str, Any]], canary: Path) -> None:
    assert not canary.exists()


def test_the_canary_would_have_told(models: Path, canary: Path, tmp_path: Path) -> None:
    """The test above could fail: reading such a pickle leaves the file."""
    import pickle

    pickle.loads(pickle.dumps(bad_models.Bomb(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_nothing_is_left_behind(ended: dict[str, dict[str, Any]], stack: Stack) -> None:
    assert stack.work_files() == []
    store = open_store(stack.read_settings())
    # What finished steps have kept is deleted by the sweep, a minute after the end.
    keys = [key for job in ended.values() for key in store.list(f"jobs/{job['id']}/")]
    assert [key for key in keys if "/kept/" not in key] == []
    # What was measured before a target proved out of reach serves the next job on that model.
    cached = [path for path in Path(stack.settings["cache_dir"]).rglob("*") if path.is_file()]
    assert {path.parent.name for path in cached} <= {"analyses"}


def test_a_disk_too_small_for_the_model_is_told(stack: Stack, models: Path, small_disk: Path) -> None:
    stack.end_workers()
    stack.start_worker(work_dir=str(small_disk), gpu_class="small")
    spec = tiny_spec(models / "model", models / "text.txt", gpu_class="small")
    job = stack.wait_for_end(stack.client.submit(spec)["id"])
    assert (job["status"], job["error"]["code"]) == ("failed", "insufficient_storage"), stack.logs()[-3000:]
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
