"""`sglp compress`, `sweep` and `estimate` without a service: what they write, print and refuse."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from sglp_client.cli.app import app
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests.worker.tiny_model import LAYERS, write_text, write_tiny_model

SGLP_COMMAND = Path(sys.executable).with_name("sglp")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a text, which every test writes beside."""
    folder = tmp_path_factory.mktemp("made")
    write_tiny_model(folder / "model")
    write_text(folder / "text.txt")
    return folder


def run(made: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SGLP_COMMAND, *arguments],
        check=False,
        cwd=made,
        capture_output=True,
        text=True,
        env={"PATH": "", "HOME": str(made)},
    )


def arguments_for(out: str, *more: str) -> Sequence[str]:
    text = ["--calibration", "text.txt", "--samples", "8", "--sequence-length", "32", "--evaluation-samples", "4"]
    return ["model", *text, "--out", out, *more]


def test_compress_writes_a_smaller_model_and_says_how_to_load_it(made: Path) -> None:
    done = run(made, "compress", *arguments_for("smaller", "--remove", "0.5", "--of", "layers"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'transformers.LlamaForCausalLM.from_pretrained("smaller/model")'
    phases = ["fetching", "opening", "calibrating", "measuring", "planning", "evaluating", "pruning", "verifying"]
    begun = [line.split() for line in done.stderr.splitlines() if line.startswith("0:")]
    assert [phase for _, phase in begun if phase in phases] == phases
    assert "Writing model shards" not in done.stderr
    model = AutoModelForCausalLM.from_pretrained(made / "smaller" / "model")
    plan = json.loads((made / "smaller" / "report.json").read_text())["plan"]
    assert len(model.model.layers) == LAYERS - len(plan["removed_layers"]) == LAYERS // 2


def test_one_sample_is_measured_and_nothing_repaired(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("HOME", str(made))
    done = CliRunner().invoke(app, ["compress", *arguments_for("one", "--remove", "0.3", "--samples", "1")])
    assert done.exit_code == 0, done.stderr
    repair = json.loads((made / "one" / "report.json").read_text())["repair"]
    assert {attempt["reason"] for attempt in repair["attempts"]} == {
        "one sample of calibration data cannot be both fitted and judged on"
    }


def test_a_plan_is_taken_from_a_file(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("HOME", str(made))
    plan = {"kind": "plan", "layers": LAYERS, "remove": [1, 4]}
    (made / "plan.json").write_text(json.dumps(plan))
    more = ["--plan", "plan.json", "--protect", "0,2,-1", "--repair", "none"]
    done = CliRunner().invoke(app, ["compress", *arguments_for("applied", *more)])
    assert done.exit_code == 0, done.stderr
    assert json.loads((made / "applied" / "plan.json").read_text()) == plan
    report = json.loads((made / "applied" / "report.json").read_text())
    assert (report["plan"]["removed_layers"], report["method"]["protected"]) == ([1, 4], [0, 2, -1])


def test_a_sweep_prints_its_table(made: Path) -> None:
    swept = run(made, "sweep", *arguments_for("swept", "--ratio", "0.2", "--ratio", "0.9"))
    assert swept.returncode == 0, swept.stderr
    assert "cannot remove 0.9" in swept.stdout


def test_an_estimate_says_what_is_asked_for(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("HOME", str(made))
    estimated, too_much = (
        CliRunner().invoke(app, ["estimate", *arguments_for(f"estimated-{ratio}", "--remove", ratio, "--of", "layers")])
        for ratio in ("0.2", "0.9")
    )
    assert (estimated.exit_code, too_much.exit_code) == (0, 0)
    more = ["--remove-count", "2", "--protect", "0,1,2,-1"]
    exact = CliRunner().invoke(app, ["estimate", *arguments_for("estimated-exact", *more)])
    assert "Asked for: exactly 0.3333 of the layers; that can be reached." in exact.stdout
    assert "| planning |" in estimated.stdout
    assert "Asked for: 0.2 of the layers; that can be reached." in estimated.stdout
    assert "0.9 of the layers; that **cannot be reached** (at most 0.6667)" in too_much.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compress", "nowhere", "--remove", "0.3", "--out", "out"], "model_not_found: there is no file or directory"),
        (["compress", "text.txt", "--remove", "0.3", "--out", "out"], "unsafe_format: "),
        (["compress", *arguments_for("out", "--remove", "1.5")], "invalid: target ratio must lie between 0 and 1"),
        (["compress", *arguments_for("out", "--remove", "0.99")], "target_unreachable: "),
        (
            ["compress", *arguments_for("out", "--remove", "0.3", "--calibration", "no.txt")],
            "bad_calibration: there is no file",
        ),
        (["compress", *arguments_for("out")], "give one of --remove, --remove-count,"),
        (["compress", *arguments_for("out", "--max-drop", "0.1", "--of", "layers")], "--of: goes with a fraction"),
        (
            ["compress", *arguments_for("out", "--remove", "0.3", "--metric", "accuracy")],
            "--metric: goes with --max-drop",
        ),
        (
            ["compress", *arguments_for("out", "--remove", "2", "--of", "layers")],
            "to remove exactly 2 layers: --remove-count 2",
        ),
        (["estimate", *arguments_for("out", "--leave", "6")], "target_unreachable: /target/left is 6"),
        (["compress", *arguments_for("out", "--remove-layers", "1,9")], "bad_layers: /target/remove/1 is 9"),
        (
            ["compress", *arguments_for("out", "--remove-count", "1", "--protect", "0,-7")],
            "bad_layers: /method/protected/1 is -7",
        ),
        (
            ["compress", *arguments_for("out", "--remove", "0.3", "--sequence-length", "8192", "--samples", "64")],
            "bad_calibration: ",
        ),
        (["compress", *arguments_for("text.txt", "--remove", "0.3")], "text.txt is no folder to write to: File exists"),
        (["compress", *arguments_for("text.txt/out", "--remove", "0.3")], "is no folder to write to: Not a directory"),
        (["compress", *arguments_for("model", "--remove", "0.3")], "model is not empty; name a new directory"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    made: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], said: str
) -> None:
    def files() -> list[Path]:
        return [path for path in sorted(made.rglob("*")) if ".cache" not in path.parts]

    monkeypatch.chdir(made)
    monkeypatch.setenv("HOME", str(made))
    before = files()
    # In this process: nothing of it hangs on a fresh one, and importing the libraries takes most of the time.
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code in {1, 2}
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert files() == before
