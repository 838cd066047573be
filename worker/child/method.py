"""Run `sglp_core` as the specification asks."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.spec import QualityTargetSpec, RatioTargetSpec, SweepTargetSpec
from worker.child.local_files import LocalFiles
from worker.child.pipe_observer import PipeObserver
from worker.supervision.messages import ChildRequest

if TYPE_CHECKING:
    from sglp_core import QualityTarget, Target


def run_method(files: LocalFiles, request: ChildRequest, output: Path, observer: PipeObserver) -> None:
    """Write the result to `output`. Raises `SGLPError`."""
    # Importing the method imports torch.
    from sglp_core import (
        Calibration,
        Evaluation,
        Healing,
        Method,
        SweepTarget,
        Target,
        analyze,
        compress,
        estimate,
        sweep,
    )

    spec, model, data = request.spec, files.model.fetched, files.data
    common: dict[str, Any] = {
        "method": Method(**spec.method.model_dump()),
        "calibration": Calibration(**spec.calibration.model_dump()),
        "roots": request.roots,
        "cache": request.cache,
        "observer": observer,
    }
    if spec.mode == "analyze":
        analyze(model, output, local=data, **common)
        return
    common["evaluation"] = Evaluation(**spec.evaluation.model_dump())
    if spec.mode == "estimate":
        target = Target(spec.target.kind, spec.target.ratio) if isinstance(spec.target, RatioTargetSpec) else None
        estimate(files.model, output, target=target, **common)
    elif isinstance(spec.target, SweepTargetSpec):
        sweep(model, SweepTarget(spec.target.of, spec.target.ratios), output, local=data, **common)
    elif spec.target is not None:
        healing = Healing(**spec.healing.model_dump())
        compress(model, _target(spec.target), output, healing=healing, local=data, **common)


def _target(spec: RatioTargetSpec | QualityTargetSpec) -> "Target | QualityTarget":
    from sglp_core import QualityTarget, Target

    if isinstance(spec, QualityTargetSpec):
        return QualityTarget(spec.metric, spec.max_drop)
    return Target(spec.kind, spec.ratio)
