"""Measure a model and remove nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from sglp_core.analysis.cache import find_or_measure
from sglp_core.analysis.measure import measure
from sglp_core.checkpoints.fetch import DEFAULT_CACHE, Fetched
from sglp_core.data.calibration_data import prepare
from sglp_core.options import Calibration, Memory, Method
from sglp_core.pipeline.run import open_for_run
from sglp_core.progress import Observer, Silent, phase, reporter
from sglp_core.reporting.inputs import analysis_section, calibration_section, model_section
from sglp_core.reporting.report import AnalyzeReport
from sglp_core.reporting.write_report import write_report


def analyze(
    model: str | Fetched,
    output: Path,
    *,
    revision: str | None = None,
    method: Method = Method(),
    calibration: Calibration = Calibration(),
    roots: Sequence[Path] | None = None,
    local: Mapping[str, Path] = MappingProxyType({}),
    cache: Path | None = None,
    memory: Memory = "auto",
    observer: Observer = Silent(),
) -> AnalyzeReport:
    """Measure a model and remove nothing; writes matrix, table and report to `output` and returns the report.

    `local` has the files of calibration and evaluation sources that the caller fetched, by what the source is called.
    """
    cache = (cache or DEFAULT_CACHE).expanduser()
    opened = open_for_run(model, revision, calibration, roots, cache, memory, observer, output)
    data = prepare(opened, calibration, None, roots, cache, reporter(observer, "calibrating"), local)
    analysis, origin = find_or_measure(
        opened, data, method, cache, lambda: measure(opened, data, method, calibration, observer)
    )
    report = AnalyzeReport(
        model_section(opened),
        method,
        calibration_section(calibration, analysis),
        analysis_section(analysis, origin),
    )
    output.mkdir(parents=True, exist_ok=True)
    with phase(observer, "publishing"):
        write_report(output, report, analysis)
    return report
