"""The paper's claim on its own ground: half of a ResNet's parameters and 40 % of its FLOPs removed, and then healed.

    python -m benchmarks.paper_claim --data ../shared/data --out claim

Every way to choose blocks is healed for several numbers of epochs, each a training with its whole schedule, and so are
the dense network and a narrower one. All start from the dense network after a training on the same images. Accuracy is
on the whole test set. Finished rows are in `claim/results.jsonl`, and a command that was stopped goes on behind them;
several may run at once, each with other rows.
"""

import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import Progress as Bars

from benchmarks.cifar import read_cifar
from benchmarks.cifar_models import write_model
from benchmarks.paper_claim_results import draw, print_results
from benchmarks.plain_training import correct, train
from benchmarks.results_file import ResultsFile
from benchmarks.width_pruning import narrower
from sglp_core import Calibration, Evaluation, Healing, Method, Options, Progress, RunContext, SilentReporter, Target
from sglp_core import compress as compress_model
from sglp_core.architectures import CifarResNetForImageClassification
from sglp_core.options import Augmentation, Optimizer, Precision
from sglp_core.pipeline.run import choose_for_run, measure_for_run, open_for_run
from sglp_core.reporting.report import CompressReport
from sglp_core.tasks import Batch

BATCH = 128
IMAGES, TEST_IMAGES = 50_000, 10_000
CALIBRATION_IMAGES = 512
# The three that choose nothing by the network come last.
ROWS = ["dense", "proposals", "grad_norm", "block_influence", "torch_pruning", "last_layers", "random"]
EPOCHS = [1, 3, 10]
RATIO_STEP = 0.02


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10/ and cifar10-resnets/.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder of the results, and of the dense network that all start from.")],
    network: Annotated[str, typer.Option(help="A file of cifar10-resnets/, without its ending.")] = "resnet56-jpeg",
    tuned: Annotated[int, typer.Option(min=0, help="Epochs that the dense network is trained first.")] = 10,
    parameters: Annotated[float, typer.Option(help="The share of the parameters to remove, at least.")] = 0.5,
    flops: Annotated[float, typer.Option(help="The share of the FLOPs to remove, at least.")] = 0.4,
    row: Annotated[list[str], typer.Option(help="What chooses the blocks; may be repeated.")] = ROWS,
    epochs: Annotated[list[int], typer.Option(min=1, help="Epochs of healing; may be repeated.")] = EPOCHS,
    seed: Annotated[list[int], typer.Option(help="Draws images and random blocks; may be repeated.")] = [0],  # noqa: B006
    optimizer: Annotated[Optimizer, typer.Option(help="The optimiser.")] = "sgd",
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.05,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 5e-4,
    alpha: Annotated[float, typer.Option(help="The weight of the dense network's answers; the rest: labels.")] = 0.5,
    temperature: Annotated[float, typer.Option(help="What softens the dense network's answers.")] = 2.0,
    augmentation: Annotated[Augmentation, typer.Option(help="How training images are changed.")] = "crop_and_flip",
    precision: Annotated[Precision, typer.Option(help="How a training step is computed.")] = "mixed",
    images: Annotated[int, typer.Option(help="Training images that there are.")] = IMAGES,
    test_images: Annotated[int, typer.Option(help="Test images.")] = TEST_IMAGES,
) -> None:
    """Compute the rows that are missing, and print and draw all."""
    results = ResultsFile(out / "results.jsonl")
    healing = Healing(
        learning_rate=rate,
        alpha=alpha,
        trained="all",
        source=str(data / "cifar10/train.zip"),
        batch_size=BATCH,
        augmentation=augmentation,
        precision=precision,
        optimizer=optimizer,
        weight_decay=weight_decay,
        temperature=temperature,
    )
    with Bars(transient=True) as bars:
        dense = _dense(data, out, network, tuned, images, bars)
        for count in epochs:
            for drawn in seed:
                for name in row:
                    settings = {
                        "network": network,
                        "tuned": tuned,
                        "parameters": parameters,
                        "flops": flops,
                        "row": name,
                        "seed": drawn,
                        "epochs": count,
                        **{
                            key: value
                            for key, value in asdict(healing).items()
                            if key not in {"source", "steps", "epochs"}
                        },
                        "images": images,
                        "test_images": test_images,
                    }
                    if results.find(settings) is None:
                        run = _Run(data, out, dense, healing, count, drawn, images, test_images, bars)
                        results.add(settings, run.result(name, parameters, flops))
    print_results(results, network)
    draw(results, network, out / "accuracy.svg")


def _dense(data: Path, out: Path, network: str, tuned: int, images: int, bars: Bars) -> Path:
    """The dense network that all start from, trained on labels alone by SGD; made once."""
    folder = out / f"{network}-{tuned}-epochs"
    if folder.exists():
        return folder
    written = write_model(data / f"cifar10-resnets/{network}.safetensors", out / f"{network}.unfinished")
    model = CifarResNetForImageClassification.from_pretrained(written).to(_device())
    healing = Healing(
        learning_rate=0.05,
        alpha=0.0,
        batch_size=BATCH,
        augmentation="crop_and_flip",
        precision="mixed",
        optimizer="sgd",
        weight_decay=5e-4,
    )
    if tuned:
        steps = -(-tuned * images // BATCH)
        bar = bars.add_task("the dense network", total=steps)
        train(
            model,
            None,
            _training_images(data, images, 0),
            healing,
            steps,
            0,
            lambda step: bars.update(bar, completed=step),
        )
    model.cpu().save_pretrained(written)
    written.rename(folder)
    return folder


def _training_images(data: Path, count: int, seed: int) -> list[Batch]:
    pixels, labels = read_cifar(data / "cifar10/train.zip", count, seed)
    return [Batch({"pixel_values": pixels}, labels)]


def _device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@dataclass(frozen=True)
class _Run:
    """One row: healing for so many `epochs`, everything drawn from the `seed`."""

    data: Path
    out: Path
    dense: Path
    healing: Healing
    epochs: int
    seed: int
    images: int
    test_images: int
    bars: Bars

    @property
    def steps(self) -> int:
        return -(-self.epochs * self.images // BATCH)

    def result(self, row: str, parameters: float, flops: float) -> dict[str, Any]:
        begun = time.monotonic()
        if row == "dense":
            network = CifarResNetForImageClassification.from_pretrained(self.dense)
            found = self._trained(network, {"parameters": 0.0, "flops": 0.0})
        elif row == "torch_pruning":
            network, fewer_parameters, fewer_flops = narrower(
                CifarResNetForImageClassification.from_pretrained(self.dense), flops
            )
            found = self._trained(network, {"parameters": fewer_parameters, "flops": fewer_flops})
        else:
            found = self._compressed(row, parameters, flops)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        return {**found, "seconds": round(time.monotonic() - begun), "device": device}

    def _trained(self, network: Any, fewer: dict[str, float]) -> dict[str, Any]:
        teacher = CifarResNetForImageClassification.from_pretrained(self.dense).to(_device()).eval()
        student, test = network.to(_device()).eval(), read_cifar(self.data / "cifar10/test.zip", self.test_images)
        dense, pruned = (correct(model, *test) / self.test_images for model in (teacher, student))
        bar = self.bars.add_task("training", total=self.steps)
        batches = _training_images(self.data, self.images, self.seed)
        train(
            student,
            teacher,
            batches,
            self.healing,
            self.steps,
            self.seed,
            lambda step: self.bars.update(bar, completed=step),
        )
        self.bars.remove_task(bar)
        accuracy = {"dense": dense, "pruned": pruned, "healed": correct(student, *test) / self.test_images}
        return {"removed": [], "fewer": fewer, "accuracy": accuracy, "verified": None}

    def _compressed(self, chooses: str, parameters: float, flops: float) -> dict[str, Any]:
        options = Options(
            method=Method(importance=chooses),
            calibration=Calibration(self.healing.source, CALIBRATION_IMAGES, batch_size=BATCH, seed=self.seed),
            evaluation=Evaluation(str(self.data / "cifar10/test.zip"), self.test_images, controls=False),
        )
        with _Screen(self.bars, chooses) as screen:
            context = RunContext(cache=self.out / "cache", reporter=screen)
            ratio = _ratio(self.dense, self.out, options, parameters, flops)
            healed = replace(options, healing=replace(self.healing, steps=self.steps))
            folder = self.out / f"{chooses}-{self.epochs}-{self.seed}"
            return _figures(compress_model(str(self.dense), Target("parameters", ratio), folder, healed, context))


@cache
def _ratio(dense: Path, out: Path, options: Options, parameters: float, flops: float) -> float:
    """The smallest share of the parameters, at least this, whose plan removes so many of the FLOPs too."""
    loaded = open_for_run(str(dense), out / "nothing", options, RunContext(cache=out / "cache"))
    measured, stack = measure_for_run(loaded, options, RunContext(cache=out / "cache")), loaded.stack
    ratio = parameters
    while True:
        plan = choose_for_run(measured, Target("parameters", ratio), options)[0].plan
        if sum(stack.layers[index].flops for index in plan.removed_layers) >= flops * stack.total_flops:
            return ratio
        ratio = round(ratio + RATIO_STEP, 4)


class _Screen(SilentReporter):
    def __init__(self, bars: Bars, name: str) -> None:
        self._bars, self._name = bars, name
        self._bar = bars.add_task(name)

    def __enter__(self) -> "_Screen":
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.remove_task(self._bar)

    def progress(self, progress: Progress) -> None:
        description = f"{self._name}: {progress.phase}"
        self._bars.update(self._bar, description=description, completed=progress.done, total=progress.total)


def _figures(report: CompressReport) -> dict[str, Any]:
    remaining = {row.metric: (row.before, row.after) for row in report.table}
    fewer = {
        name: 1 - float(remaining[name][1] or 0) / float(remaining[name][0] or 1) for name in ("parameters", "flops")
    }
    return {
        "removed": list(report.plan.removed_layers),
        "fewer": fewer,
        "accuracy": {stage.stage: stage.accuracy for stage in report.stages},
        "kept_step": report.healing.kept_step,
        "judged": [asdict(point) for point in report.healing.curve],
        "verified": report.verification.passed,
    }


if __name__ == "__main__":
    typer.run(main)
