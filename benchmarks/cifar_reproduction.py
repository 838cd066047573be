"""ResNet-56 on CIFAR-10 to 15, 13 and 12 of its 27 blocks: SGLP beside the published rule and other choices.

    python -m benchmarks.cifar_reproduction --data ../shared/data

Accuracy is on a draw of the test images, after removal alone, with batch norms re-estimated, and, where asked for
with `--steps`, after a short training run. The dense network is the one that was tuned on the same JPEG images.
"""

import copy
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from benchmarks.cifar import accuracy, read_cifar, train
from benchmarks.cifar_models import write_model
from benchmarks.subset_grad_norm import subset_grad_norm
from sglp_core.analysis.measure import measure
from sglp_core.analysis.result import Analysis
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.execution.weight_changes import apply
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import PROPOSALS, Calibration, Method, Options, Target
from sglp_core.planning.choose import choose_plan, control_plans
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.repair.batch_norm import estimate_statistics
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch

BLOCKS = 27
RANDOM_SEEDS = 5
CURVE = 4
# How many images the published rule takes the gradient of.
GRADIENT_IMAGES = 32
LEARNING_RATE = 0.05
SGLP, PAPER, PUBLISHED = "SGLP (proposals)", "SGLP (paper: grad_norm)", "SGLP (published rule)"


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10/ and cifar10-resnets/.", exists=True)],
    blocks: Annotated[list[int], typer.Option(help="How many of 27 blocks stay; may be repeated.")] = [15, 13, 12],  # noqa: B006
    samples: Annotated[int, typer.Option(min=16, help="Calibration images, of the training set.")] = 256,
    judged: Annotated[int, typer.Option(min=1, help="Test images, of 10,000.")] = 2000,
    subsets: Annotated[int, typer.Option(min=1, help="Subsets of each segment that the published rule tries.")] = 70,
    steps: Annotated[int, typer.Option(min=0, help="Training steps after removal.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images of a training step.")] = 128,
    rows: Annotated[
        list[str] | None, typer.Option(help="Only these rows; by default all, and all are trained.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws calibration and training images.")] = 0,
) -> None:
    """Print a table for every number of blocks."""
    test = read_cifar(data / "cifar10/test.zip", judged)
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True)) as progress:
        directory = write_model(data / "cifar10-resnets/resnet56-jpeg.safetensors", Path(name) / "resnet56")
        loaded = load_model(
            str(directory), Options(calibration=Calibration(sequence_length=1)), RunContext(cache=Path(name) / "cache")
        )
        calibration = Calibration(str(data / "cifar10/train.zip"), samples, batch_size=64, seed=seed)
        calibration_data = prepare(loaded, calibration, None, RunContext(cache=Path(name) / "cache"))
        analysis = measure(loaded, calibration_data, Options(method=Method(), calibration=calibration))
        dense = accuracy(loaded.model, *test)
        segments = tuple(segment.first_and_last for segment in analysis.segmentation.segments)
        print(f"dense: {dense:.4f} on {len(test[1])} test images; segments {segments}")
        training = read_cifar(data / "cifar10/train.zip", steps * batch, seed) if steps else None
        for kept in blocks:
            choices = _choices(loaded, calibration_data, analysis, calibration, BLOCKS - kept, subsets, progress)
            judged_rows = []
            for row, removed in choices.items():
                if rows and row not in rows:
                    continue
                judged_rows.append(_judged(row, removed, loaded, calibration_data, test))
                if training and row not in _repeats():
                    judged_rows[-1] = _healed(judged_rows[-1], loaded, training, test, steps, batch, seed, progress)
            Console(width=150).print(_table(kept, judged_rows, loaded, steps, batch))


@dataclasses.dataclass(frozen=True)
class Row:
    """A choice of blocks: accuracy after removal, with batch norms re-estimated, and along the training steps."""

    name: str
    removed: tuple[int, ...]
    plain: float
    estimated: float
    curve: tuple[tuple[int, float], ...] = ()


def _choices(
    loaded: LoadedModel,
    calibration_data: CalibrationData,
    analysis: Analysis,
    calibration: Calibration,
    count: int,
    subsets: int,
    progress: Progress,
) -> dict[str, tuple[int, ...]]:
    batches = calibration_data.calibration(loaded)
    target = Target("layers", count / len(loaded.stack))
    choices = {}
    for name, importance in ((SGLP, PROPOSALS), (PAPER, "grad_norm")):
        method = Method(importance=importance)
        plan = choose_plan(
            WriteFinder(loaded, batches[0]), analysis, target, Options(method=method, calibration=calibration), batches
        ).plan
        choices[name] = plan.removed_layers
    task = progress.add_task(f"subsets for {count}", total=None)
    choices[PUBLISHED] = subset_grad_norm(
        loaded.model,
        loaded.stack.path,
        analysis.segmentation.segments,
        count,
        batches[0].rows(0, GRADIENT_IMAGES),
        subsets,
        on_subset=lambda: progress.advance(task),
    )
    controls = control_plans(analysis, count, Options(method=Method()))
    choices |= {name: controls[name].removed_layers for name in ("block_influence", "last_layers")}
    for number in range(RANDOM_SEEDS):
        choices[f"random {number}"] = control_plans(
            analysis, count, Options(method=Method(), calibration=Calibration(seed=number))
        )["random"].removed_layers
    return choices


def _judged(
    name: str,
    removed: tuple[int, ...],
    loaded: LoadedModel,
    calibration_data: CalibrationData,
    test: tuple[Tensor, Tensor],
) -> Row:
    pruned = _pruned(loaded, removed)
    plain = accuracy(pruned, *test)
    batches: list[Batch] = calibration_data.calibration(loaded)
    apply(pruned, estimate_statistics(dataclasses.replace(loaded, model=pruned), (), batches))
    return Row(name, removed, plain, accuracy(pruned, *test))


def _healed(
    row: Row,
    loaded: LoadedModel,
    training: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    steps: int,
    batch: int,
    seed: int,
    progress: Progress,
) -> Row:
    pruned = _pruned(loaded, row.removed)
    curve: list[tuple[int, float]] = []
    task = progress.add_task(f"training {row.name}", total=steps)

    def on_step(step: int) -> None:
        progress.advance(task)
        if step % max(1, steps // CURVE) == 0:
            curve.append((step, accuracy(pruned, *test)))

    train(pruned, *training, steps, batch, LEARNING_RATE, seed, on_step)
    return dataclasses.replace(row, curve=tuple(curve))


def _pruned(loaded: LoadedModel, removed: tuple[int, ...]) -> Any:
    pruned = copy.deepcopy(loaded.model)
    remove_layers(pruned, loaded.stack.path, removed)
    return pruned


def _table(kept: int, rows: list[Row], loaded: LoadedModel, steps: int, batch: int) -> Table:
    points = [step for step, _ in next((row.curve for row in rows if row.curve), ())]
    title = f"{kept} of {BLOCKS} blocks stay" + (f"; training: {steps} steps of {batch} images" if steps else "")
    table = Table("choice", "parameters", "MACs", "plain", "batch norm", *map(str, points), "removed", title=title)
    stack = loaded.stack
    for row in rows:
        if row.name in _repeats():
            continue
        parameters = 1 - sum(stack.layers[i].parameters for i in row.removed) / stack.total_parameters
        flops = 1 - sum(stack.layers[i].flops for i in row.removed) / stack.total_flops
        curve = [f"{100 * value:.2f}" for _, value in row.curve] or [""] * len(points)
        table.add_row(
            row.name,
            f"{100 * parameters:.1f} %",
            f"{100 * flops:.1f} %",
            f"{100 * row.plain:.2f}",
            f"{100 * row.estimated:.2f}",
            *curve,
            ", ".join(map(str, row.removed)),
        )
    drawn = [row for row in rows if row.name.startswith("random")]
    if len(drawn) < RANDOM_SEEDS:
        return table
    table.add_row(
        f"random, median of {len(drawn)}",
        "",
        "",
        _spread([row.plain for row in drawn]),
        _spread([row.estimated for row in drawn]),
    )
    return table


def _spread(values: list[float]) -> str:
    return f"{100 * statistics.median(values):.2f} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def _repeats() -> set[str]:
    """Only the first random choice has a row of its own."""
    return {f"random {number}" for number in range(1, RANDOM_SEEDS)}


if __name__ == "__main__":
    typer.run(main)
