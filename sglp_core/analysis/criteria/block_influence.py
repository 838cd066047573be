"""`block_influence`: how much a layer turns the residual stream (ShortGPT, arXiv 2403.03853)."""

import numpy as np

from sglp_core.analysis.criteria.criterion import Criterion, LayerTrace


def block_influence(trace: LayerTrace) -> np.ndarray:
    """1 − cos(input, output), mean over tokens, `[L]`."""
    score: np.ndarray = 1 - trace.cosine.mean(0)
    return score


CRITERION = Criterion(block_influence)
