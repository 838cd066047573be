"""`sglp estimate MODEL --out FOLDER`: what a job would take, without the service."""

from typing import Annotated

import typer

import sglp_core
from sglp_core import Calibration, Evaluation, Options, RunContext, Target
from sglp_core.reporting.markdown import estimate_page
from sglp_service.local_run import local_run
from sglp_service.method_options import (
    CalibrationSource,
    EvaluationSamples,
    Model,
    Of,
    Out,
    Samples,
    SequenceLength,
)


def estimate(
    model: Model,
    out: Out,
    remove: Annotated[float | None, typer.Option(help="The fraction to remove, between 0 and 1.")] = None,
    of: Of = "parameters",
    calibration: CalibrationSource = "self",
    samples: Samples = 64,
    sequence_length: SequenceLength = 256,
    evaluation_samples: EvaluationSamples = 16,
) -> None:
    """Estimate what a job would take, from configuration and tensor headers alone; no weights are read."""
    with local_run(out) as reporter:
        report = sglp_core.estimate(
            model,
            out,
            target=None if remove is None else Target(of, remove),
            options=Options(
                calibration=Calibration(calibration, samples, sequence_length),
                evaluation=Evaluation(samples=evaluation_samples),
            ),
            context=RunContext(reporter=reporter),
        )
    print(estimate_page(report))
