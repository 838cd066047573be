"""Similarity-Guided Layer Partition pruning (arXiv 2410.14720) as a library."""

from sglp_core.errors import SGLPError
from sglp_core.estimation.estimate import estimate
from sglp_core.options import (
    Calibration,
    Evaluation,
    Healing,
    LayersTarget,
    Method,
    Options,
    PlanTarget,
    QualityTarget,
    SweepTarget,
    Target,
)
from sglp_core.pipeline.analyze import analyze
from sglp_core.pipeline.compress import compress
from sglp_core.pipeline.sweep import sweep
from sglp_core.progress import Progress, ProgressReporter, SilentReporter
from sglp_core.run_context import ResultTransfer, RunContext

__all__ = [
    "Calibration",
    "Evaluation",
    "Healing",
    "LayersTarget",
    "Method",
    "Options",
    "PlanTarget",
    "Progress",
    "ProgressReporter",
    "QualityTarget",
    "ResultTransfer",
    "RunContext",
    "SGLPError",
    "SilentReporter",
    "SweepTarget",
    "Target",
    "analyze",
    "compress",
    "estimate",
    "sweep",
]
