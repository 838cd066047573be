"""The largest removal within a budget: what the search promises, and what it finds on a model whose answer is known."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglp_core import Calibration, Evaluation, Method, QualityTarget, compress
from sglp_core.errors import BadCalibration, TargetUnreachable
from sglp_core.options import Options
from sglp_core.planning.quality_budget import largest_within
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import write_text, write_tiny_model

HARMLESS = (1, 2, 3)


@pytest.mark.parametrize("most", range(1, 8))
def test_bisection_finds_a_local_best_for_every_course_and_the_best_for_every_monotone_one(most: int) -> None:
    for course in product([False, True], repeat=most):
        holds = dict(enumerate(course, 1))
        found = largest_within(most, holds.__getitem__)
        assert found == 0 or holds[found]
        assert not any(holds.get(found + above, False) for above in (1, 2))
        if list(course) == sorted(course, reverse=True):
            assert found == sum(course)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers, of which three add nothing to the residual stream and the other three a lot."""
    directory = write_tiny_model(tmp_path_factory.mktemp("model"))
    file = directory / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        number = name.split(".")[2] if ".layers." in name else ""
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = torch.zeros_like(tensor) if int(number) in HARMLESS else 20 * tensor
    save_file(weights, file, {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def run(model: Path, text: Path, directory: Path, target: QualityTarget, **method: Any) -> CompressReport:
    return compress(
        str(model),
        target,
        directory / "out",
        options=Options(
            method=Method(**method),
            calibration=Calibration(str(text), samples=8, sequence_length=16, batch_size=4),
            evaluation=Evaluation(samples=4, controls=False),
        ),
        context=RunContext(cache=directory / "cache"),
    )


def test_all_layers_that_do_nothing_go_and_no_other(model: Path, text: Path, tmp_path: Path) -> None:
    report = run(model, text, tmp_path, QualityTarget("agreement", 0.0))
    assert report.plan.removed_layers == HARMLESS
    found = report.quality_target
    assert found.search.drop == 0
    assert found.verified.within
    # The verified value is the one of the before/after table, from the held-out windows.
    table = {row.metric: row for row in report.table}
    assert found.verified.value == table["agreement"].after
    assert found.verified.dense == table["agreement"].before
    # Four of six layers can go at most; more were ruled out without running the model.
    tried = {trial.layers_removed: trial.drop for trial in found.tried}
    assert tried.keys() <= {1, 2, 3, 4}
    assert tried[4] > 0
    assert found.search.samples == 4
    assert "## Quality target" in (tmp_path / "out" / "report.md").read_text()


def test_where_one_layer_is_too_much_the_smallest_loss_is_named(model: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TargetUnreachable, match=r"agreement within a drop of 0: the smallest loss found is (0\.\d+|1), "
    ):
        run(model, text, tmp_path, QualityTarget("agreement", 0.0), protected=(1, 2, 3))
    with pytest.raises(TargetUnreachable, match="no layer can be removed"):
        run(model, text, tmp_path, QualityTarget("agreement", 0.5), protected=tuple(range(6)))


def test_accuracy_that_is_none_from_the_start_is_no_budget(model: Path, tmp_path: Path) -> None:
    """Text of words that the model does not know: it never foretells the unknown word."""
    text = tmp_path / "unknown.txt"
    text.write_text("xyzzy " * 4000)
    weights = load_file(model / "model.safetensors")
    copy = write_tiny_model(tmp_path / "model")
    # Whatever comes in, the head says the same other word.
    weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
    weights["lm_head.weight"][5] = 1e-3
    weights["lm_head.weight"][0] = -1e-3
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadCalibration, match="nothing right"):
        run(copy, text, tmp_path, QualityTarget("accuracy", 0.1))


def test_what_is_lost_of_a_metric() -> None:
    assert QualityTarget("perplexity", 0.1).drop(20.0, 25.0) == pytest.approx(0.25)
    assert QualityTarget("accuracy", 0.1).drop(0.9, 0.8) == pytest.approx(0.1)
    assert QualityTarget("agreement", 0.1).drop(1.0, 0.97) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("metric", "max_drop"),
    [("kl", 0.1), ("accuracy", 1.0), ("agreement", 2), ("perplexity", -1), ("accuracy", float("nan"))],
)
def test_a_target_that_makes_no_sense_is_refused(metric: Any, max_drop: float) -> None:
    with pytest.raises(ValueError, match=r"metric must be|max_drop"):
        QualityTarget(metric, max_drop)
