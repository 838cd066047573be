"""The result of measuring a model: similarity, segments and importance of its layers."""

from dataclasses import dataclass

import numpy as np

from sglp_core.analysis.criteria import CONTROLS
from sglp_core.analysis.segmentation import Segmentation
from sglp_core.structure.layer_stack import LayerStack


@dataclass(frozen=True)
class Analysis:
    """`similarity` is float64 `[L, L]`; `importance` has one score a layer for every criterion of the pass.

    `run_importance` has `[L + 1, L + 1]` for every criterion that also scores runs of layers: at `[i, j]` the layers
    i to j − 1 together.
    """

    stack: LayerStack
    similarity: np.ndarray
    segmentation: Segmentation
    importance: dict[str, np.ndarray]
    run_importance: dict[str, np.ndarray]
    estimator: str
    kernel: str
    n_samples: int
    sample_unit: str

    def scores(self, criterion: str, seed: int) -> np.ndarray:
        """The scores of a criterion of the pass, or of a control."""
        control = CONTROLS.get(criterion)
        return self.importance[criterion] if control is None else control.scores(len(self.stack), seed)
