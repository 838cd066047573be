"""The paper's claim on its own ground: half of a ResNet's parameters removed, and healed by a training.

    python -m benchmarks.paper_claim --data ../shared/data

A CIFAR-10 ResNet is compressed by the library as a job would: chosen, repaired, healed on the training images, written
and verified. Accuracy is on test images that nothing was fitted to.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress as Bars

from benchmarks.cifar_models import write_model
from benchmarks.markdown_table import print_table
from sglp_core import Calibration, Evaluation, Healing, Method, Options, Progress, RunContext, SilentReporter, Target
from sglp_core import compress as compress_model
from sglp_core.options import Augmentation, Precision
from sglp_core.reporting.report import CompressReport

CACHE = Path("~/.cache/sglp").expanduser()
BATCH = 128
ROWS = ["proposals", "grad_norm", "block_influence", "random", "last_layers"]


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10/ and cifar10-resnets/.", exists=True)],
    network: Annotated[str, typer.Option(help="A file of cifar10-resnets/, without its ending.")] = "resnet56-jpeg",
    remove: Annotated[float, typer.Option(help="The share of the parameters to remove.")] = 0.5,
    importance: Annotated[list[str], typer.Option(help="What chooses the blocks; may be repeated.")] = ROWS,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 128 images.")] = 300,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 1e-3,
    augmentation: Annotated[Augmentation, typer.Option(help="How training images are changed.")] = "crop_and_flip",
    precision: Annotated[Precision, typer.Option(help="How a training step is computed.")] = "mixed",
    judged: Annotated[int, typer.Option(min=1, help="Test images, of 10,000.")] = 2000,
    seed: Annotated[int, typer.Option(help="Draws calibration and training images.")] = 0,
) -> None:
    """Print a row for each way to choose."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(data / f"cifar10-resnets/{network}.safetensors", Path(folder) / "model")
        train = str(data / "cifar10/train.zip")

        def row(chooses: str) -> dict[str, str]:
            options = Options(
                method=Method(importance=chooses),
                calibration=Calibration(train, 256, batch_size=BATCH, seed=seed),
                evaluation=Evaluation(str(data / "cifar10/test.zip"), judged, controls=False),
                healing=Healing(steps, rate, 1.0, "all", train, BATCH, augmentation, precision),
            )
            with Bars(transient=True) as bars:
                context = RunContext(cache=CACHE, reporter=_Screen(bars, chooses))
                return _row(
                    chooses,
                    compress_model(str(model), Target("parameters", remove), Path(folder) / chooses, options, context),
                )

        print_table(f"{network}, {remove:.0%} of the parameters, {steps * BATCH:,} images", map(row, importance))


class _Screen(SilentReporter):
    def __init__(self, bars: Bars, name: str) -> None:
        self._bars, self._name = bars, name
        self._bar = bars.add_task(name)

    def progress(self, progress: Progress) -> None:
        description = f"{self._name}: {progress.phase}"
        self._bars.update(self._bar, description=description, completed=progress.done, total=progress.total)


def _row(chooses: str, report: CompressReport) -> dict[str, str]:
    remaining = {row.metric: (row.before, row.after) for row in report.table}
    fewer = {name: 1 - float(after or 0) / float(before or 1) for name, (before, after) in remaining.items()}
    stages = {stage.stage: f"{stage.accuracy:.2%}" for stage in report.stages}
    return {
        "blocks chosen by": chooses,
        "blocks removed": str(len(report.plan.removed_layers)),
        "fewer parameters": f"{fewer['parameters']:.1%}",
        "fewer FLOPs": f"{fewer['flops']:.1%}",
        **{stage: stages.get(stage, "") for stage in ("dense", "pruned", "repaired", "healed")},
        "verified": str(report.verification.passed),
    }


if __name__ == "__main__":
    typer.run(main)
