"""Several ratios from one analysis."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from sglp_core.analysis.cache import find_or_measure
from sglp_core.analysis.measure import measure
from sglp_core.checkpoints.fetch import DEFAULT_CACHE, Fetched
from sglp_core.data.calibration_data import prepare
from sglp_core.errors import OutOfMemory
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Calibration, Evaluation, Method, SweepTarget
from sglp_core.pipeline.compress import _choose
from sglp_core.pipeline.run import open_for_run
from sglp_core.planning import sweep as sweeping
from sglp_core.progress import Observer, Silent, counter, phase, reporter
from sglp_core.reporting.inputs import analysis_section, calibration_section, evaluation_section, model_section
from sglp_core.reporting.report import SweepReport
from sglp_core.reporting.sweep import sweep_section
from sglp_core.reporting.sweep_figure import draw_sweep
from sglp_core.reporting.write_report import write_report


def sweep(
    model: str | Fetched,
    target: SweepTarget,
    output: Path,
    *,
    revision: str | None = None,
    method: Method = Method(),
    calibration: Calibration = Calibration(),
    evaluation: Evaluation = Evaluation(),
    roots: Sequence[Path] | None = None,
    local: Mapping[str, Path] = MappingProxyType({}),
    cache: Path | None = None,
    observer: Observer = Silent(),
) -> SweepReport:
    """Plan, judge and time several ratios from one analysis; writes table and picture to `output`, and no model.

    Ratios that cannot be reached are named in the report. Raises `TargetUnreachable` where none can.
    """
    cache = (cache or DEFAULT_CACHE).expanduser()
    opened = open_for_run(model, revision, calibration, roots, cache, "auto", observer, output)
    if isinstance(opened.model, StreamedModel):
        raise OutOfMemory("the model does not fit in memory, and a sweep times it there; compress it at single ratios")
    data = prepare(opened, calibration, evaluation, roots, cache, reporter(observer, "calibrating"), local)
    analysis, origin = find_or_measure(
        opened, data, method, cache, lambda: measure(opened, data, method, calibration, observer)
    )
    count = partial(counter, observer)
    plans, unreachable = sweeping.plans_of(
        target,
        lambda each: _choose(opened, analysis, each, method, data, calibration.seed, lambda *_: None)[0].plan,
        count,
    )
    points = sweeping.judge(opened, plans, data, method.repair, calibration.sequence_length, count)

    output.mkdir(parents=True, exist_ok=True)
    draw_sweep(points, sweeping.knee_of(points), f"{opened.fetched.origin}: sweep", output / "sweep.png")
    report = SweepReport(
        model_section(opened),
        method,
        calibration_section(calibration, analysis),
        analysis_section(analysis, origin),
        sweep_section(target, points, unreachable),
        evaluation_section(evaluation, data),
    )
    with phase(observer, "publishing"):
        write_report(output, report, analysis)
    return report
