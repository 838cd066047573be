"""Every program of `examples/` runs as its own first lines say, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sglp_service.embedded_stack import EmbeddedStack
from tests.worker.tiny_model import LAYERS, write_text, write_tiny_model

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str, *arguments: str | Path) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "mine")
    write_text(folder / "text.txt")
    return folder


@pytest.fixture(scope="module")
def compressed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the library's example."""
    output = tmp_path_factory.mktemp("compressed") / "smaller"
    printed = run_example("compress_in_python.py", models / "mine", models / "text.txt", output)
    assert f"layers: {LAYERS} -> {LAYERS - 2}" in printed
    assert (output / "model" / "model.safetensors").is_file()
    return output


def test_the_similarity_of_a_result_is_printed(compressed: Path) -> None:
    printed = run_example("read_similarity.py", compressed)
    assert printed.startswith("segments")
    assert printed.count("CKA") == 3


def test_a_criterion_of_ones_own_chooses_the_layers(models: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller"
    printed = run_example("own_criterion.py", models / "mine", models / "text.txt", output)
    scores = {int(line.split()[1][:-1]): float(line.split()[2]) for line in printed.splitlines()[1:]}
    assert len(scores) == LAYERS
    assert all(score > 0 for score in scores.values())
    report = json.loads((output / "report.json").read_text())
    assert report["method"]["importance"] == "turned_gradient"
    removed = report["plan"]["removed_layers"]
    assert f"removed layers: ({', '.join(map(str, removed))})" in printed
    for first, last in report["analysis"]["segments"]:
        stay = [layer for layer in range(max(first, 1), min(last, LAYERS - 2) + 1) if layer not in removed]
        gone = [layer for layer in range(first, last + 1) if layer in removed]
        assert not (stay and gone) or max(scores[layer] for layer in gone) <= min(scores[layer] for layer in stay)


def test_a_repair_of_ones_own_is_tried_on_top_of_a_factor(models: Path, tmp_path: Path) -> None:
    output = tmp_path / "smaller"
    printed = run_example("own_repair.py", models / "mine", models / "text.txt", output)
    report = json.loads((output / "report.json").read_text())
    attempts = report["repair"]["attempts"]
    assert len(printed.splitlines()) == len(attempts)
    built = {attempt["kind"] for attempt in attempts if attempt["built"]}
    assert {"compensate + louder_write", "compensate + refit"} <= built


def test_a_job_is_submitted_and_its_result_downloaded(models: Path, tmp_path: Path) -> None:
    text = (models / "text.txt").as_uri()
    with EmbeddedStack(tmp_path / "state", model_roots=[models]) as stack:
        model = (models / "mine").as_uri()
        output = tmp_path / "smaller"
        printed = run_example("submit_and_wait.py", model, output, "--calibration", text, "--url", stack.url)
    assert "succeeded" in printed
    assert (output / "model" / "config.json").is_file()
