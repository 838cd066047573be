"""A plan that is given layer by layer: taken from one model to another, and refused where it does not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sglp_core import (
    Calibration,
    Evaluation,
    Healing,
    LayersTarget,
    Method,
    Options,
    PlanTarget,
    Progress,
    RunContext,
    SilentReporter,
    compress,
    estimate,
)
from sglp_core.errors import BadLayers, TargetUnreachable
from sglp_core.options import RemovalTarget
from sglp_core.planning.given_plan import given_plan
from sglp_core.planning.layer_kinds import largest_removable, removable_counts
from sglp_core.planning.plan import Plan
from sglp_core.reporting.report import CompressReport
from sglp_core.structure.layer_stack import measure_stack
from tests.worker.tiny_model import LAYERS, write_text, write_tiny_model

# Its seconds and memory differ from run to run.
CARD = "README.md"
HEALING = Healing(steps=8, learning_rate=1e-4)


class Phases(SilentReporter):
    """The phases that a run came to."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def progress(self, progress: Progress) -> None:
        if progress.phase not in self.names:
            self.names.append(progress.phase)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    write_tiny_model(folder / "model")
    write_text(folder / "text.txt")
    shutil.copytree(folder / "model", folder / "copy")
    shutil.copytree(folder / "model", folder / "sister")
    sister = AutoModelForCausalLM.from_pretrained(folder / "sister")
    torch.manual_seed(1)
    for parameter in sister.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    sister.save_pretrained(folder / "sister")
    return folder


@pytest.fixture(scope="module")
def chosen(folder: Path) -> CompressReport:
    """The report of a job that chose its plan; what it wrote is in `chosen`."""
    return run(folder, "model", LayersTarget(count=2), "chosen", method=Method(protected=(0, 3, -1)), healing=HEALING)


def run(folder: Path, model: str, target: RemovalTarget, out: str, **options: Any) -> CompressReport:
    """Compress with a cache that no other run has used."""
    phases = Phases()
    settings = Options(
        calibration=Calibration(str(folder / "text.txt"), samples=16, sequence_length=16, batch_size=4),
        evaluation=Evaluation(samples=4),
        **options,
    )
    report = compress(
        str(folder / model), target, folder / out, settings, RunContext(cache=folder / f"{out}.cache", reporter=phases)
    )
    (folder / f"{out}.phases").write_text(" ".join(phases.names))
    return report


def read_plan(folder: Path, out: str) -> PlanTarget:
    content = json.loads((folder / out / "plan.json").read_text())
    assert content.pop("kind") == "plan"
    return PlanTarget(tuple(content.pop("remove")), **content)


def model_files(folder: Path, out: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / out / "model").iterdir() if file.name != CARD}


@pytest.fixture(scope="module")
def again(folder: Path, chosen: CompressReport) -> CompressReport:
    """The report of a job on a copy of the model with the plan of the other job; what it wrote is in `again`."""
    return run(folder, "copy", read_plan(folder, "chosen"), "again", healing=HEALING)


def test_a_number_of_layers_is_removed_exactly(chosen: CompressReport) -> None:
    assert len(chosen.plan.removed_layers) == 2
    assert not {0, 3, 5}.intersection(chosen.plan.removed_layers)
    assert (chosen.plan.exact, chosen.plan.requested, chosen.plan.achieved) == (True, 2 / 6, 2 / 6)
    assert chosen.plan.reachable == 0.5


def test_a_plan_of_one_job_gives_another_the_same_bytes(
    folder: Path, chosen: CompressReport, again: CompressReport
) -> None:
    plan = read_plan(folder, "chosen")
    assert (plan.remove, plan.layers) == (chosen.plan.removed_layers, LAYERS)
    # The repair and the healing are part of what must be equal.
    assert chosen.repair.changed_tensors
    assert chosen.healing.kept_step
    files = model_files(folder, "chosen")
    assert "model.safetensors" in files
    assert model_files(folder, "again") == files
    assert read_plan(folder, "again") == plan
    assert again.repair == chosen.repair


def test_a_given_plan_measures_nothing(folder: Path, again: CompressReport) -> None:
    assert (again.analysis, again.proposals, again.plan.exact) == (None, (), True)
    assert "measuring" in (folder / "chosen.phases").read_text().split()
    assert "measuring" not in (folder / "again.phases").read_text().split()
    assert {file.name for file in (folder / "again").iterdir()} == {
        "manifest.json", "model", "plan.json", "report.json", "report.md",
    }  # fmt: skip
    assert not (folder / "again.cache" / "analyses").exists()
    assert [(row.name, len(row.removed_layers)) for row in again.controls] == [
        ("sglp", 2), ("last_layers", 2), ("random", 2),
    ]  # fmt: skip
    page = (folder / "again" / "report.md").read_text()
    assert "Asked to remove exactly 2 layers." in page
    assert "nothing was measured to choose them" in page


def test_layers_that_are_protected_by_default_go_where_they_are_named(folder: Path) -> None:
    """Of a model of other weights, all but one layer."""
    report = run(folder, "sister", PlanTarget(keep=(-5,), layers=LAYERS), "one layer", method=Method(repair="none"))
    assert report.layer_map == {"1": 0}
    # The control `random` protects what the plan keeps of them, so that it can remove as many.
    assert {len(row.removed_layers) for row in report.controls} == {5}
    assert read_plan(folder, "one layer") == PlanTarget(remove=(0, 2, 3, 4, 5), layers=LAYERS)
    dense = AutoModelForCausalLM.from_pretrained(folder / "sister")
    dense.model.layers = dense.model.layers[1:2]
    expected = {name: tensor for name, tensor in dense.state_dict().items() if name != "lm_head.weight"}
    found = load_file(folder / "one layer" / "model" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


REFUSED: dict[str, tuple[PlanTarget | LayersTarget, dict[str, Any], str]] = {
    "out of range": (PlanTarget(remove=(1, 40)), {}, "/target/remove/1 is 40, and the model has the layers 0 to 5"),
    "before the first": (PlanTarget(keep=(-7,)), {}, "/target/keep/0 is -7"),
    "twice": (PlanTarget(remove=(4, 2, -2)), {}, "/target/remove names layer 4 more than once"),
    "all": (PlanTarget(remove=tuple(range(6))), {}, "/target/remove names all 6 layers"),
    "none": (PlanTarget(keep=tuple(range(6))), {}, "/target/keep names all 6 layers"),
    "another number": (PlanTarget(remove=(1,), layers=8), {}, "/target/layers is 8, and the model has 6"),
    "removed and protected": (
        PlanTarget(remove=(1, 4)),
        {"protected": (0, -2)},
        "/target/remove removes, and /method/protected protects, layer 4",
    ),
    "neither kept nor free to go": (PlanTarget(keep=(1, 2)), {"protected": (0, 3, 1)}, "protects, layers 0, 3"),
    "protected that is not there": (PlanTarget(remove=(1,)), {"protected": (6,)}, "/method/protected/0 is 6"),
    "protected under a number": (LayersTarget(count=1), {"protected": (0, -9)}, "/method/protected/1 is -9"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_by_estimates_and_jobs_alike_before_any_work(folder: Path, name: str) -> None:
    target, method, said = REFUSED[name]
    phases = Phases()
    options, context = Options(method=Method(**method)), RunContext(cache=folder / "cache", reporter=phases)
    works: list[Callable[[], Any]] = [
        lambda: compress(str(folder / "model"), target, folder / "none", options, context),
        lambda: estimate(str(folder / "model"), folder / "none", target, options, context),
    ]
    messages = []
    for work in works:
        with pytest.raises(BadLayers) as refused:
            work()
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert said in messages[0]
    assert not {"calibrating", "measuring"}.intersection(phases.names)
    assert not (folder / "none").exists()


@pytest.mark.parametrize("target", [LayersTarget(count=5), LayersTarget(left=1)], ids=str)
def test_a_number_out_of_reach_is_said_by_an_estimate_and_refused_before_any_work(
    folder: Path, tmp_path: Path, target: LayersTarget
) -> None:
    found = estimate(str(folder / "model"), tmp_path / "estimated", target).estimate.target
    assert found is not None
    assert (found.kind, found.ratio, found.reachable, found.exact) == ("layers", 5 / 6, False, True)
    phases = Phases()
    with pytest.raises(TargetUnreachable, match="the nearest numbers that can go are 4"):
        compress(str(folder / "model"), target, tmp_path / "none", context=RunContext(reporter=phases))
    assert "calibrating" not in phases.names


def test_an_estimate_of_a_given_plan_counts_no_measurement(folder: Path, tmp_path: Path) -> None:
    found = estimate(str(folder / "model"), tmp_path / "plan", PlanTarget(remove=(1, 2))).estimate
    assert found.target is not None
    assert (found.target.ratio, found.target.reachable, found.target.exact) == (2 / 6, True, True)
    assert (found.seconds["measuring"], found.seconds["planning"]) == (0, 0)
    assert found.seconds["repairing"] > 0


def test_of_layers_that_are_built_by_place_only_whole_periods_can_go() -> None:
    """Two recurrent layers and one with attention, three times."""
    config = transformers.RecurrentGemmaConfig(
        vocab_size=23, hidden_size=32, intermediate_size=48, num_hidden_layers=9, num_attention_heads=4,
        num_key_value_heads=1, head_dim=8, lru_width=32, attention_window_size=8,
        architectures=["RecurrentGemmaForCausalLM"],
    )  # fmt: skip
    stack = measure_stack(config, 16)

    def plan(**numbers: tuple[int, ...]) -> Plan:
        return given_plan(PlanTarget(**numbers), stack, config, Method())

    assert removable_counts(stack, {8}) == [3, 6]
    assert largest_removable(stack, "layers", {8}) == 6
    assert plan(remove=(3, 4, 5)).removed_layers == (3, 4, 5)
    # Not run by run, but together.
    assert plan(remove=(1, 2, 4)).achieved == 3 / 9
    with pytest.raises(
        BadLayers, match=r"/target/remove: layer 3 cannot go alone, .* from layer 3 on: layers 3, 4, 5;"
    ):
        plan(remove=(3,))
    with pytest.raises(BadLayers, match=r"/target/keep: layers 2, 5, 8 are all of their kind"):
        plan(keep=(0, 1, 3, 4))
