"""`sglp estimate MODEL --out FOLDER`: what a job would take, without the service."""

from typing import Annotated

import typer
from sglp_client.cli.removal import KeepLayers, Leave, PlanFile, Protect, Removal, RemoveCount, RemoveLayers

import sglp_core
from sglp_core import Calibration, Evaluation, Method, Options, RunContext
from sglp_core.options import TargetKind
from sglp_core.reporting.markdown import estimate_page
from sglp_service.local_run import local_run
from sglp_service.method_options import (
    CalibrationSource,
    EvaluationSamples,
    Model,
    Out,
    Samples,
    SequenceLength,
)
from sglp_service.removal import protected_layers, sized_target


def estimate(
    model: Model,
    out: Out,
    remove: Annotated[float | None, typer.Option(help="The fraction to remove, between 0 and 1.")] = None,
    of: Annotated[
        TargetKind | None, typer.Option(help="What --remove is a fraction of; by default parameters.")
    ] = None,
    remove_count: RemoveCount = None,
    leave: Leave = None,
    remove_layers: RemoveLayers = None,
    keep_layers: KeepLayers = None,
    plan: PlanFile = None,
    protect: Protect = None,
    calibration: CalibrationSource = "self",
    samples: Samples = 64,
    sequence_length: SequenceLength = 256,
    evaluation_samples: EvaluationSamples = 16,
) -> None:
    """Estimate what a job would take, from configuration and tensor headers alone; no weights are read."""
    removal = Removal(
        remove=remove,
        of=of,
        remove_count=remove_count,
        leave=leave,
        remove_layers=remove_layers,
        keep_layers=keep_layers,
        plan=plan,
    )
    with local_run(out) as reporter:
        report = sglp_core.estimate(
            model,
            out,
            target=sized_target(removal),
            options=Options(
                method=Method(protected=protected_layers(protect)),
                calibration=Calibration(calibration, samples, sequence_length),
                evaluation=Evaluation(samples=evaluation_samples),
            ),
            context=RunContext(reporter=reporter),
        )
    print(estimate_page(report))
