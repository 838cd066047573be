"""`first_order`: the first-order change of the loss when layers are skipped, for single layers and for runs."""

import numpy as np

from sglp_core.analysis.criteria.criterion import Criterion, LayerTrace


def first_order(trace: LayerTrace) -> np.ndarray:
    """Σ over tokens of |⟨∂L/∂h_out, h_out − h_in⟩|: the first-order loss change of skipping the layer, `[L]`."""
    score: np.ndarray = np.diagonal(trace.skip_loss.mean(0), 1).copy()
    return score


def first_order_of_runs(trace: LayerTrace) -> np.ndarray:
    """`[L + 1, L + 1]`: at `[i, j]` the first-order loss change of skipping the layers i to j − 1 together.

    Less than the sum over its layers where one undoes what another did, which no score of single layers sees.
    """
    score: np.ndarray = trace.skip_loss.mean(0)
    return score


CRITERION = Criterion(first_order, first_order_of_runs)
