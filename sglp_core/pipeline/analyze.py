"""Measure a model and remove nothing."""

from pathlib import Path

from sglp_core.checkpoints.fetch import Fetched
from sglp_core.options import Options
from sglp_core.pipeline.run import device_memory_reported, measure_for_run, open_for_run
from sglp_core.reporting.inputs import analysis_section, calibration_section, model_section, placement_section
from sglp_core.reporting.report import AnalyzeReport
from sglp_core.reporting.write_report import write_report
from sglp_core.run_context import RunContext


@device_memory_reported()
def analyze(
    model: str | Fetched, output: Path, options: Options = Options(), context: RunContext = RunContext()
) -> AnalyzeReport:
    """Write similarity matrix, table of layers and report to `output`, a new directory, and return the report."""
    loaded = open_for_run(model, output, options, context)
    measured = measure_for_run(loaded, options, context, evaluates=False)
    report = AnalyzeReport(
        model_section(loaded),
        options.method,
        calibration_section(options.calibration, measured.data),
        analysis_section(measured.analysis, measured.origin),
        placement_section(loaded),
    )
    output.mkdir(parents=True, exist_ok=True)
    with context.phase("publishing").single_step():
        write_report(output, report, measured.analysis)
    return report
