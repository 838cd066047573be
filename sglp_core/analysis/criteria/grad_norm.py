"""`grad_norm`: the norm of the gradient of a layer's parameters (SGLP, arXiv 2410.14720)."""

import numpy as np

from sglp_core.analysis.criteria.criterion import Criterion, LayerTrace


def grad_norm(trace: LayerTrace) -> np.ndarray:
    """‖∂L/∂θ_l‖₂ of a layer's parameters, root mean square over batches, `[L]`.

    With one batch it is the plain norm. Only comparable inside a segment: it falls with depth in pre-norm networks.
    """
    norm: np.ndarray = np.sqrt(trace.squared_gradient.mean(0))
    return norm


CRITERION = Criterion(grad_norm)
