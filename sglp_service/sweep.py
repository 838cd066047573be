"""`sglp sweep MODEL --ratio 0.1 --ratio 0.2 --out FOLDER`: several ratios from one analysis, without the service."""

from typing import Annotated

import typer
from sglp_client.cli.removal import Protect

import sglp_core
from sglp_core import Calibration, Evaluation, Method, Options, RunContext, SweepTarget
from sglp_core.options import PROPOSALS
from sglp_core.reporting.markdown import sweep_section
from sglp_service.local_run import local_run
from sglp_service.method_options import (
    CalibrationSource,
    EvaluationSamples,
    EvaluationSource,
    Importance,
    Model,
    Of,
    Out,
    Repair,
    Samples,
    Seed,
    SequenceLength,
)
from sglp_service.removal import protected_layers


def sweep(
    model: Model,
    ratio: Annotated[list[float], typer.Option(help="A fraction to remove, between 0 and 1; repeatable.")],
    out: Out,
    of: Of = "parameters",
    protect: Protect = None,
    importance: Importance = PROPOSALS,
    repair: Repair = "auto",
    calibration: CalibrationSource = "self",
    samples: Samples = 64,
    sequence_length: SequenceLength = 256,
    evaluation: EvaluationSource = "held_out",
    evaluation_samples: EvaluationSamples = 16,
    seed: Seed = 0,
) -> None:
    """Compare several ratios, from one analysis; writes a table and a figure, and no model."""
    with local_run(out) as reporter:
        report = sglp_core.sweep(
            model,
            SweepTarget(of, tuple(ratio)),
            out,
            options=Options(
                method=Method(importance=importance, repair=repair, protected=protected_layers(protect)),
                calibration=Calibration(calibration, samples, sequence_length, seed=seed),
                evaluation=Evaluation(evaluation, evaluation_samples),
            ),
            context=RunContext(reporter=reporter),
        )
    print(sweep_section(report.sweep))
