"""`taylor`: the first-order Taylor expansion of the loss in a layer's weights (Molchanov et al., arXiv 1906.10771)."""

import numpy as np

from sglp_core.analysis.criteria.criterion import Criterion, LayerTrace


def taylor(trace: LayerTrace) -> np.ndarray:
    """Σ |θ · ∂L/∂θ| over a layer's parameters, mean over batches, `[L]`."""
    score: np.ndarray = trace.weight_gradient.mean(0)
    return score


CRITERION = Criterion(taylor)
