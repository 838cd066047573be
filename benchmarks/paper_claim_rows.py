"""The rows of `benchmarks.paper_claim`: networks that have become smaller, and what a healing makes of them."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.cifar import read_cifar
from benchmarks.plain_training import correct, train
from benchmarks.width_pruning import narrower
from sglp_core import Calibration, Evaluation, Healing, Method, Options, RunContext, SilentReporter, Target
from sglp_core.architectures import CifarResNetForImageClassification
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.variant import Variant
from sglp_core.healing.heal import Training, heal
from sglp_core.healing.training_state import kept_state
from sglp_core.pipeline.run import Measured, choose_for_run, measure_for_run, open_for_run
from sglp_core.progress import Phase, Progress
from sglp_core.repair.repair import repair_plans
from sglp_core.structure.runs import Removed
from sglp_core.tasks import Batch

BATCH = 512
TEST_IMAGES = 10_000
CALIBRATION_IMAGES = 512
# How much more of the parameters is removed at a time until enough of the FLOPs is gone.
RATIO_STEP = 0.02
# Those of others know no segments, and the last blocks include the very last.
METHODS = {
    "proposals": Method(),
    "grad_norm": Method(importance="grad_norm"),
    "block_influence": Method(segments=1, importance="block_influence"),
    "random": Method(segments=1, importance="random"),
    "last_layers": Method(segments=1, importance="last_layers", protected=()),
}
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Ground:
    """The folder with the images, how many are trained on, the dense network that all start from, and a cache."""

    data: Path
    images: int
    dense: Path
    cache: Path

    def dense_network(self) -> Any:
        return CifarResNetForImageClassification.from_pretrained(self.dense).to(device()).eval()


class Row(Protocol):
    """A smaller network. `healed` says how it is after a healing of its own, and tells the step and their number."""

    def healed(self, healing: Healing, on_step: OnStep) -> dict[str, Any]: ...


class Whole:
    """The dense network itself (where `fewer_flops` is 0), or a narrower one; all of it is trained by a plain loop."""

    def __init__(self, ground: Ground, fewer_flops: float, seed: int) -> None:
        self._seed, self._teacher = seed, ground.dense_network()
        self._network, self._fewer = self._teacher, {"parameters": 0.0, "flops": 0.0}
        if fewer_flops:
            network, parameters, flops = narrower(self._teacher, fewer_flops)
            self._network, self._fewer = network.to(device()).eval(), {"parameters": parameters, "flops": flops}
        self._images = training_images(ground.data, ground.images, seed)
        self._test = read_cifar(ground.data / "cifar10/test.zip", TEST_IMAGES)
        models = {"dense": self._teacher, "pruned": self._network}
        self._before = {name: correct(model, *self._test) / TEST_IMAGES for name, model in models.items()}

    def healed(self, healing: Healing, on_step: OnStep) -> dict[str, Any]:
        student = copy.deepcopy(self._network)
        steps = healing.steps_on(len(self._images[0].labels), BATCH)
        train(
            student,
            self._teacher,
            self._images,
            "image_classification",
            healing,
            steps,
            self._seed,
            lambda step: on_step(step, steps),
        )
        healed = correct(student, *self._test) / TEST_IMAGES
        return {"removed": [], "fewer": self._fewer, "accuracy": {**self._before, "healed": healed}}


class FewerBlocks:
    """The dense network with blocks removed as a job would, repaired, and healed by the library."""

    def __init__(self, ground: Ground, importance: str, parameters: float, flops: float, seed: int) -> None:
        source = str(ground.data / "cifar10/train.zip")
        options = Options(
            method=METHODS[importance],
            calibration=Calibration(source, CALIBRATION_IMAGES, batch_size=BATCH, seed=seed),
            evaluation=Evaluation(str(ground.data / "cifar10/test.zip"), TEST_IMAGES),
            healing=Healing(ground.images // BATCH, source=source, batch_size=BATCH),
        )
        context = self._context = RunContext(cache=ground.cache)
        loaded = open_for_run(str(ground.dense), ground.cache / "no output", options, context)
        self._measured = measure_for_run(loaded, options, context)
        self._seed, self._removed = seed, _smallest_plan(self._measured, options, context, (parameters, flops))
        repaired = repair_plans(
            loaded, self._measured.data.calibration(loaded), [self._removed], "auto", None, self._measured.finder
        )
        self._repaired = Variant(self._removed, repaired[0].changes)
        self._test = self._measured.data.evaluation(loaded)
        before = evaluate(loaded, self._test, {"pruned": Variant(self._removed), "repaired": self._repaired})
        self._before = {name: each.accuracy for name, each in before.items()}

    def healed(self, healing: Healing, on_step: OnStep) -> dict[str, Any]:
        loaded, data = self._measured.loaded, self._measured.data
        kept = kept_state(loaded, data, self._repaired, healing, self._context)
        healed = heal(
            loaded,
            data.calibration(loaded),
            self._repaired,
            Training(healing, self._seed, kept, data.training(loaded)),
            Phase(_Steps(on_step), "healing"),
        )
        kept.drop()
        quality = evaluate(loaded, self._test, {"healed": Variant(self._removed, healed.changes)})
        layers, stack = [loaded.stack.layers[index] for index in self._removed], loaded.stack
        return {
            "removed": list(self._removed),
            "fewer": {
                "parameters": sum(layer.parameters for layer in layers) / stack.total_parameters,
                "flops": sum(layer.flops for layer in layers) / stack.total_flops,
            },
            "accuracy": {**self._before, "healed": quality["healed"].accuracy},
            "kept_step": healed.step,
            "judged": [asdict(point) for point in healed.curve],
        }


def _smallest_plan(measured: Measured, options: Options, context: RunContext, least: tuple[float, float]) -> Removed:
    """The plan for the smallest share of the parameters that removes at least these shares of parameters and FLOPs."""
    (ratio, flops), stack = least, measured.loaded.stack
    while True:
        removed = choose_for_run(measured, Target("parameters", ratio), options, context)[0].plan.removed_layers
        if sum(stack.layers[index].flops for index in removed) >= flops * stack.total_flops:
            return removed
        ratio = round(ratio + RATIO_STEP, 4)


class _Steps(SilentReporter):
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def progress(self, progress: Progress) -> None:
        self._on_step(progress.done, progress.total)


def training_images(data: Path, count: int, seed: int) -> list[Batch]:
    """So many training images, drawn from the seed, in one batch."""
    pixels, labels = read_cifar(data / "cifar10/train.zip", count, seed)
    return [Batch({"pixel_values": pixels}, labels)]


def device() -> torch.device:
    """The one that jobs compute on."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
