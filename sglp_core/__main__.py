"""The method on the command line: `sglp compress MODEL --remove 0.25 --out DIR`, without any service."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import transformers
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

import sglp_core
from sglp_core import Calibration, Evaluation, Healing, Method, QualityTarget, SGLPError, SweepTarget, Target
from sglp_core.options import PROPOSALS, HealingLoss, Metric, Options, TargetKind, Trained
from sglp_core.reporting.markdown import estimate_page, figure, quality_target_section, sweep_section
from sglp_core.run_context import RunContext

app = typer.Typer(add_completion=False, no_args_is_help=True)
console = Console(stderr=True)


Model = Annotated[str, typer.Argument(help="A model directory, a GGUF file, or hf://org/name")]
Out = Annotated[Path, typer.Option(help="A new directory for what is written")]
Of = Annotated[TargetKind, typer.Option(help="What the fraction is of")]
Importance = Annotated[str, typer.Option(help="`proposals`, or one criterion inside the segments")]
Repair = Annotated[
    Literal["none", "compensate", "least_squares", "refit", "batch_norm", "auto"],
    typer.Option(help="Make up for the removed layers in weights that stay, without training"),
]
Source = Annotated[
    str, typer.Option(help="'self'; a .txt, .jsonl or .parquet file; or an image folder, a .zip of one or .parquet")
]
EvaluationSource = Annotated[str, typer.Option(help="'held_out', or a source as for calibration")]
Count = Annotated[int, typer.Option(min=1)]
Length = Annotated[int, typer.Option(min=8)]
Seed = Annotated[int, typer.Option(min=0)]
InMemory = Annotated[
    Literal["auto", "in_memory", "streaming"],
    typer.Option(help="Load the model whole or a layer at a time; auto: whole where that leaves room to work"),
]


class Bars:
    """One progress bar a phase and unit on a terminal, one line a phase elsewhere."""

    def __init__(self) -> None:
        self.bars = Progress(
            TextColumn("{task.description:12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]:8}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: dict[tuple[str, str], TaskID] = {}
        # Ours tell what these would, and they would be torn by ours.
        transformers.utils.logging.disable_progress_bar()

    def progress(self, progress: sglp_core.Progress) -> None:
        key = (progress.phase, progress.unit)
        if key not in self.tasks:
            if not console.is_terminal and progress.phase not in {phase for phase, _ in self.tasks}:
                console.print(progress.phase)
            self._finish()
            self.tasks[key] = self.bars.add_task(progress.phase, unit="" if progress.unit == "steps" else progress.unit)
        self.bars.update(self.tasks[key], completed=progress.done, total=progress.total)

    def _finish(self) -> None:
        """What others follow is complete, whatever its last progress was."""
        for task in self.bars.tasks[-1:]:
            self.bars.update(task.id, completed=task.total)
            self.bars.stop_task(task.id)

    def resolved(self, facts: Mapping[str, object]) -> None:
        console.print(f"{facts['class']} ({facts['format']}, sha256 {str(facts['model_sha256'])[:12]}…)")

    def planned(self, plan: Mapping[str, object]) -> None:
        console.print(f"removing layers {plan['removed_layers']} ({plan['achieved']:.4g} of the {plan['kind']})")


@app.callback()
def main() -> None:
    """Similarity-Guided Layer Partition pruning."""


@app.command()
def compress(
    model: Model,
    out: Out,
    remove: Annotated[float | None, typer.Option(help="The fraction to remove, between 0 and 1")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Instead of --remove: as much as loses no more of --metric than this")
    ] = None,
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="For --max-drop: relative increase of perplexity (if not given), drop of accuracy or of agreement"
        ),
    ] = None,
    of: Annotated[TargetKind | None, typer.Option(help="What the fraction is of; parameters if not given")] = None,
    importance: Importance = PROPOSALS,
    repair: Repair = "auto",
    heal: Annotated[int, typer.Option(min=0, help="Training steps after the cut; 0 for none")] = 0,
    heal_with: Annotated[Trained, typer.Option(help="Train the layers next to the cuts, or LoRA on all that stay")] = (
        "neighbours"
    ),
    heal_loss: Annotated[HealingLoss, typer.Option(help="Follow the dense model, or the plain text")] = "distil",
    calibration: Source = "self",
    samples: Count = 64,
    sequence_length: Length = 256,
    evaluation: EvaluationSource = "held_out",
    evaluation_samples: Count = 16,
    seed: Seed = 0,
    memory: InMemory = "auto",
) -> None:
    """Remove whole layers from a model and prove that the result loads."""
    with _told_plainly(out) as bars:
        report = sglp_core.compress(
            model,
            _target(of, remove, metric, max_drop),
            out,
            options=Options(
                method=Method(importance=importance, repair=repair),
                calibration=Calibration(calibration, samples, sequence_length, seed=seed),
                evaluation=Evaluation(evaluation, evaluation_samples),
                healing=Healing(heal, loss=heal_loss, trained=heal_with),
            ),
            context=RunContext(memory=memory, reporter=bars),
        )
    table = Table("", "before", "after")
    for row in report.table:
        table.add_row(row.metric, figure(row.before), figure(row.after))
    console.print(table)
    if better := [control.name for control in report.controls if control.beats_plan]:
        console.print(f"[bold]On this model the plan loses to: {', '.join(better)}[/]", soft_wrap=True)
    console.print(f"The whole report: {out / 'report.md'}", soft_wrap=True)
    if report.quality_target:
        console.print(quality_target_section(report.quality_target), soft_wrap=True)
    print(f'transformers.{report.model.class_name}.from_pretrained("{out / "model"}")')


@app.command()
def sweep(
    model: Model,
    ratio: Annotated[list[float], typer.Option(help="A fraction to remove, between 0 and 1; repeatable")],
    out: Out,
    of: Of = "parameters",
    importance: Importance = PROPOSALS,
    repair: Repair = "auto",
    calibration: Source = "self",
    samples: Count = 64,
    sequence_length: Length = 256,
    evaluation: EvaluationSource = "held_out",
    evaluation_samples: Count = 16,
    seed: Seed = 0,
) -> None:
    """Say what several ratios cost and save, from one analysis; writes a table and a picture, and no model."""
    with _told_plainly(out) as bars:
        report = sglp_core.sweep(
            model,
            SweepTarget(of, tuple(ratio)),
            out,
            options=Options(
                method=Method(importance=importance, repair=repair),
                calibration=Calibration(calibration, samples, sequence_length, seed=seed),
                evaluation=Evaluation(evaluation, evaluation_samples),
            ),
            context=RunContext(reporter=bars),
        )
    print(sweep_section(report.sweep))


@app.command()
def estimate(
    model: Model,
    out: Out,
    remove: Annotated[float | None, typer.Option(help="The fraction to remove, between 0 and 1")] = None,
    of: Of = "parameters",
    calibration: Source = "self",
    samples: Count = 64,
    sequence_length: Length = 256,
    evaluation_samples: Count = 16,
) -> None:
    """Say what a job would take, from configuration and tensor headers alone; no weight is read."""
    with _told_plainly(out) as bars:
        report = sglp_core.estimate(
            model,
            out,
            target=None if remove is None else Target(of, remove),
            options=Options(
                calibration=Calibration(calibration, samples, sequence_length),
                evaluation=Evaluation(samples=evaluation_samples),
            ),
            context=RunContext(reporter=bars),
        )
    print(estimate_page(report))


@contextmanager
def _told_plainly(out: Path) -> Iterator[Bars]:
    # Made now: what cannot be written should not be found out after the work.
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise typer.BadParameter(f"{out} is not empty; name a new directory", param_hint="--out")
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise typer.BadParameter(f"{out} is no folder to write to: {error.strerror}", param_hint="--out") from error
    bars = Bars()
    try:
        with bars.bars:
            yield bars
    except (SGLPError, ValueError) as error:
        code = getattr(error, "code", "invalid")
        console.print(f"[red]{code}[/red]: {error}", soft_wrap=True)
        sys.exit(1)
    finally:
        # It stays where something was written.
        with suppress(OSError):
            out.rmdir()


def _target(
    of: TargetKind | None, remove: float | None, metric: Metric | None, max_drop: float | None
) -> Target | QualityTarget:
    if remove is not None and max_drop is None and metric is None:
        return Target(of or "parameters", remove)
    if max_drop is not None and remove is None and of is None:
        return QualityTarget(metric or "perplexity", max_drop)
    if (remove is None) != (max_drop is None):
        raise typer.BadParameter("--of goes with --remove, and --metric with --max-drop")
    raise typer.BadParameter("give one of --remove and --max-drop")


if __name__ == "__main__":
    app(prog_name="sglp")
