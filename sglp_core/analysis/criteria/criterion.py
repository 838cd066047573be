"""What a criterion is: a function from the trace of the calibration pass to one score a layer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sglp_core.loading.source_code import source_of


@dataclass(frozen=True)
class LayerTrace:
    """What one forward and backward pass over the calibration data left behind, float64.

    `squared_gradient`, `weight_gradient`, `cosine` and `angle` are `[batches, L]`. `skip_loss` is
    `[batches, L + 1, L + 1]`: at `[:, i, j]` what skipping the layers i to j − 1 together does to the loss, to first
    order: Σ over tokens of |⟨∂L/∂h_j, h_j − h_i⟩|, where h_i enters layer i. `skip_angle`, of the same shape, has there
    the angle of h_i and h_j over π, mean over the samples that similarity is measured on.
    """

    squared_gradient: np.ndarray
    weight_gradient: np.ndarray
    skip_loss: np.ndarray
    skip_angle: np.ndarray
    cosine: np.ndarray
    angle: np.ndarray


Scores = Callable[[LayerTrace], np.ndarray]


@dataclass(frozen=True)
class Criterion:
    """A row of `CRITERIA`: how important each layer is, and perhaps each run of layers; higher is more important.

    `scores` returns `[L]`. `run_scores` returns `[L + 1, L + 1]`: at `[i, j]` the importance of the layers i to j − 1
    together, where that is not the sum of theirs. All must be finite.
    """

    scores: Scores
    run_scores: Scores | None = None

    def source(self) -> str:
        """The code that makes the scores; a cached analysis is used only while it is the same."""
        return "\0".join(source_of(each) for each in (self.scores, self.run_scores) if each is not None)
