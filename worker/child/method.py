"""Run `sglp_core` as the specification asks."""

import gc
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.spec import LayersTargetSpec, PlanTargetSpec, QualityTargetSpec, RatioTargetSpec, SweepTargetSpec
from worker.child.fetch import LocalFiles
from worker.child.pipe_reporter import PipeReporter
from worker.supervision.messages import ChildRequest

if TYPE_CHECKING:
    from sglp_core.checkpoints.converted_models import ConvertedModels
    from sglp_core.checkpoints.fetch import FetchedOutline
    from sglp_core.options import RemovalTarget, SizedTarget


def run_method(files: LocalFiles, request: ChildRequest, output: Path, reporter: PipeReporter) -> None:
    """Write the result to `output`. Raises `SGLPError`."""
    # Importing the method imports torch.
    from sglp_core import (
        Calibration,
        Evaluation,
        Healing,
        Method,
        Options,
        ResultTransfer,
        RunContext,
        SweepTarget,
        analyze,
        compress,
        estimate,
        sweep,
    )
    from sglp_core.fresh_process import shared_server

    gc.freeze()
    gc.enable()
    # Before anything is computed, which starts threads or a GPU: neither survives a fork.
    with shared_server(of_this_process=True):
        spec, outline = request.spec, _model(files, request)
        model = outline.fetched
        options = Options(
            method=Method(**spec.method.model_dump()),
            calibration=Calibration(**spec.calibration.model_dump()),
            evaluation=Evaluation(**spec.evaluation.model_dump()),
            healing=Healing(**spec.healing.model_dump()),
        )
        context = RunContext(
            roots=request.roots,
            local_files=files.data,
            cache=request.cache,
            reporter=reporter,
            transfer=ResultTransfer(request.received, reporter.result_kept),
            converted=converted_models(request),
        )
        if spec.mode == "analyze":
            analyze(model, output, options, context)
        elif spec.mode == "estimate":
            sized = (
                spec.target if isinstance(spec.target, RatioTargetSpec | LayersTargetSpec | PlanTargetSpec) else None
            )
            estimate(outline, output, None if sized is None else _sized_target(sized), options, context)
        elif isinstance(spec.target, SweepTargetSpec):
            sweep(model, SweepTarget(spec.target.of, spec.target.ratios), output, options, context)
        elif spec.target is not None:
            compress(model, _target(spec.target), output, options, context)


def converted_models(request: ChildRequest) -> "ConvertedModels":
    """Where models that are converted from GGUF lie: what is made of an upload goes with its job."""
    from sglp_core.checkpoints.converted_models import ConvertedModels

    is_upload = request.spec.model.uri in map(str, request.uploads.values())
    folder = Path(tempfile.gettempdir()) if is_upload else request.cache
    return ConvertedModels(folder / "converted", request.limits.cache_bytes)


def _model(files: LocalFiles, request: ChildRequest) -> "FetchedOutline":
    from sglp_core.checkpoints.fetch import Fetched, FetchedOutline, fetch

    if files.model is None:
        source = request.spec.model
        return FetchedOutline(fetch(source.uri, source.revision, request.cache, request.roots), {})
    found = files.model
    return FetchedOutline(Fetched(found.path, found.origin, found.revision, downloaded=True), found.weights_by_dtype)


def _target(spec: RatioTargetSpec | LayersTargetSpec | PlanTargetSpec | QualityTargetSpec) -> "RemovalTarget":
    from sglp_core import QualityTarget

    if isinstance(spec, QualityTargetSpec):
        return QualityTarget(spec.metric, spec.max_drop)
    return _sized_target(spec)


def _sized_target(spec: RatioTargetSpec | LayersTargetSpec | PlanTargetSpec) -> "SizedTarget":
    from sglp_core import LayersTarget, PlanTarget, Target

    if isinstance(spec, PlanTargetSpec):
        return PlanTarget(spec.remove, spec.keep, spec.layers)
    if spec.ratio is None:
        return LayersTarget(spec.count, spec.left)
    return Target(spec.kind, spec.ratio)
