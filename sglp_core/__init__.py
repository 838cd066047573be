"""Similarity-Guided Layer Partition pruning (arXiv 2410.14720) as a library."""

from sglp_core.errors import SGLPError
from sglp_core.estimation.estimate import estimate
from sglp_core.options import Calibration, Evaluation, Healing, Method, QualityTarget, SweepTarget, Target
from sglp_core.pipeline.analyze import analyze
from sglp_core.pipeline.compress import compress
from sglp_core.pipeline.sweep import sweep
from sglp_core.progress import Observer, Progress

__all__ = [
    "Calibration",
    "Evaluation",
    "Healing",
    "Method",
    "Observer",
    "Progress",
    "QualityTarget",
    "SGLPError",
    "SweepTarget",
    "Target",
    "analyze",
    "compress",
    "estimate",
    "sweep",
]
