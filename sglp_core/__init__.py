"""Similarity-Guided Layer Partition pruning (arXiv 2410.14720) as a library."""

from sglp_core.data.token_windows import Calibration
from sglp_core.errors import SGLPError
from sglp_core.estimation.estimate import estimate
from sglp_core.evaluation.quality import Evaluation
from sglp_core.healing.heal import Healing
from sglp_core.method import Method
from sglp_core.options import QualityTarget, SweepTarget, Target
from sglp_core.pipeline.compress import analyze, compress, sweep
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
