"""Several ratios from one analysis."""

from pathlib import Path

from sglp_core.checkpoints.fetch import Fetched
from sglp_core.options import Options, SweepTarget
from sglp_core.pipeline.run import choose_for_run, device_memory_reported, measure_for_run, open_for_run
from sglp_core.planning.sweep import knee_of, measure_points, plans_of
from sglp_core.reporting.inputs import (
    analysis_section,
    calibration_section,
    evaluation_section,
    model_section,
    placement_section,
)
from sglp_core.reporting.report import SweepReport
from sglp_core.reporting.sweep import sweep_section
from sglp_core.reporting.sweep_figure import draw_sweep
from sglp_core.reporting.write_report import write_report
from sglp_core.run_context import RunContext


@device_memory_reported()
def sweep(
    model: str | Fetched,
    target: SweepTarget,
    output: Path,
    options: Options = Options(),
    context: RunContext = RunContext(),
) -> SweepReport:
    """Plan, judge and time several ratios; writes table and figure to `output`, and no model. Returns the report.

    Ratios that cannot be reached are named in the report. Raises `TargetUnreachable` where none can.
    """
    loaded = open_for_run(model, output, options, context)
    measured = measure_for_run(loaded, options, context)
    plans, unreachable = plans_of(
        target, lambda each: choose_for_run(measured, each, options, context)[0].plan, context.phase("planning")
    )
    data = measured.data
    points = measure_points(loaded, plans, data, options, context)

    output.mkdir(parents=True, exist_ok=True)
    draw_sweep(points, knee_of(points), f"{loaded.fetched.origin}: sweep", output / "sweep.png")
    report = SweepReport(
        model_section(loaded),
        options.method,
        calibration_section(options.calibration, measured.data),
        analysis_section(measured.analysis, measured.origin),
        placement_section(loaded),
        sweep_section(target, points, unreachable),
        evaluation_section(options.evaluation, data),
    )
    with context.phase("publishing").single_step():
        write_report(output, report, measured.analysis)
    return report
