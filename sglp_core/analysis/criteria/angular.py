"""`angular`: the angle between the input and the output of a layer, or of a run (Gromov et al., arXiv 2403.17887)."""

import numpy as np

from sglp_core.analysis.criteria.criterion import Criterion, LayerTrace


def angular(trace: LayerTrace) -> np.ndarray:
    """arccos(cos(input, output)) / π, mean over tokens, `[L]`."""
    score: np.ndarray = trace.angle.mean(0)
    return score


def angular_of_runs(trace: LayerTrace) -> np.ndarray:
    """`[L + 1, L + 1]`: at `[i, j]` the angle over π between the input of layer i and the output of layer j − 1.

    The paper takes the last token of every window; here it is the mean over all sampled tokens.
    """
    score: np.ndarray = trace.skip_angle.mean(0)
    return score


CRITERION = Criterion(angular, angular_of_runs)
