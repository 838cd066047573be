"""`sglp compress MODEL --remove 0.25 --out FOLDER`: the whole method on this machine, without the service."""

from typing import Annotated

import typer
from sglp_client.cli.removal import KeepLayers, Leave, PlanFile, Protect, Removal, RemoveCount, RemoveLayers
from sglp_client.cli.tables import show_figures

import sglp_core
from sglp_core import Calibration, Evaluation, Healing, Method, Options, RunContext
from sglp_core.options import PROPOSALS, Augmentation, Metric, Precision, TargetKind, Trained
from sglp_core.reporting.markdown import quality_target_section
from sglp_service.local_run import console, local_run
from sglp_service.method_options import (
    CalibrationSource,
    EvaluationSamples,
    EvaluationSource,
    Importance,
    Memory,
    Model,
    Out,
    Repair,
    Samples,
    Seed,
    SequenceLength,
)
from sglp_service.removal import protected_layers, removal_target

WAYS = "--remove, --remove-count, --leave, --remove-layers, --keep-layers, --plan and --max-drop"


def compress(
    model: Model,
    out: Out,
    remove: Annotated[float | None, typer.Option(help="The fraction to remove, between 0 and 1.")] = None,
    remove_count: RemoveCount = None,
    leave: Leave = None,
    remove_layers: RemoveLayers = None,
    keep_layers: KeepLayers = None,
    plan: PlanFile = None,
    protect: Protect = None,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Instead of --remove: remove as much as possible while --metric gets worse by at most this."),
    ] = None,
    metric: Annotated[
        Metric | None,
        typer.Option(
            help="For --max-drop: the relative increase of perplexity (default), or the drop of accuracy or agreement."
        ),
    ] = None,
    of: Annotated[
        TargetKind | None, typer.Option(help="What --remove is a fraction of; by default parameters.")
    ] = None,
    importance: Importance = PROPOSALS,
    repair: Repair = "auto",
    heal: Annotated[int, typer.Option(min=0, help="Training steps after the layers are removed; 0 for none.")] = 0,
    heal_epochs: Annotated[
        int, typer.Option(min=0, help="Instead of --heal: train so many times on all samples of --heal-data.")
    ] = 0,
    heal_seconds: Annotated[
        float | None, typer.Option(help="Train for about so long at most: fewer steps, chosen before the first.")
    ] = None,
    heal_with: Annotated[
        Trained, typer.Option(help="Train the layers next to the removed ones, LoRA on all that remain, or all of it.")
    ] = "neighbours",
    heal_alpha: Annotated[
        float, typer.Option(min=0, max=1, help="1: train towards the outputs of the dense model; 0: on the labels.")
    ] = 1.0,
    heal_data: Annotated[
        str, typer.Option(help="Train on the calibration data, or on another file or folder.")
    ] = "calibration",
    heal_batch: Annotated[
        int | None, typer.Option(min=1, help="Samples a training step; by default those of a calibration batch.")
    ] = None,
    heal_rate: Annotated[
        float | None, typer.Option(help="The highest learning rate; by default one that suits what is trained.")
    ] = None,
    heal_augmentation: Annotated[
        Augmentation, typer.Option(help="Move and mirror images at random, or take them as they are.")
    ] = "none",
    heal_precision: Annotated[
        Precision, typer.Option(help="Compute what training can in bfloat16 (mixed), or all as the weights are.")
    ] = "full",
    calibration: CalibrationSource = "self",
    samples: Samples = 64,
    sequence_length: SequenceLength = 256,
    evaluation: EvaluationSource = "held_out",
    evaluation_samples: EvaluationSamples = 16,
    seed: Seed = 0,
    memory: Memory = "auto",
) -> None:
    """Remove whole layers from a model and prove that the result loads."""
    removal = Removal(
        remove=remove,
        of=of,
        remove_count=remove_count,
        leave=leave,
        remove_layers=remove_layers,
        keep_layers=keep_layers,
        plan=plan,
        max_drop=max_drop,
        metric=metric,
    )
    with local_run(out) as reporter:
        target = removal_target(removal)
        if target is None:
            raise typer.BadParameter(f"give one of {WAYS}")
        report = sglp_core.compress(
            model,
            target,
            out,
            options=Options(
                method=Method(importance=importance, repair=repair, protected=protected_layers(protect)),
                calibration=Calibration(calibration, samples, sequence_length, seed=seed),
                evaluation=Evaluation(evaluation, evaluation_samples),
                healing=Healing(
                    steps=heal,
                    epochs=heal_epochs,
                    max_seconds=heal_seconds,
                    learning_rate=heal_rate,
                    alpha=heal_alpha,
                    trained=heal_with,
                    source=heal_data,
                    batch_size=heal_batch,
                    augmentation=heal_augmentation,
                    precision=heal_precision,
                ),
            ),
            context=RunContext(memory=memory, reporter=reporter),
        )
    show_figures(console, model.rpartition("/")[2], report.to_dict())
    console.print(f"The whole report: {out / 'report.md'}", soft_wrap=True)
    if report.quality_target:
        console.print(quality_target_section(report.quality_target), soft_wrap=True)
    print(f'transformers.{report.model.class_name}.from_pretrained("{out / "model"}")')
