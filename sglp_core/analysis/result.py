"""What is known of a model after the measuring pass, in a form that can be stored, shown and planned on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sglp_core.analysis.importance import last_layers, shuffled
from sglp_core.analysis.segmentation import Segmentation
from sglp_core.planning.plan import Plan
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
    calibration_digest: str

    def scores(self, criterion: str, seed: int) -> np.ndarray:
        """The scores of a criterion of the pass, or of a control."""
        if criterion == "last_layers":
            return last_layers(len(self.stack))
        if criterion == "random":
            return shuffled(len(self.stack), seed)
        return self.importance[criterion]

    def rows(self, plan: Plan | None, protected: set[int], why: str) -> list[dict[str, Any]]:
        """One row a layer: what it weighs, where it lies, what it is worth, and whether and `why` it goes."""
        removed = set(plan.removed_layers) if plan else set()
        rows = []
        for layer in self.stack.layers:
            number = next(
                n for n, (first, last) in enumerate(self.segmentation.segments) if first <= layer.index <= last
            )
            if layer.index in protected:
                reason = "protected"
            elif layer.index in removed:
                reason = why
            else:
                reason = "kept by the plan" if plan else "nothing was planned"
            rows.append(
                {
                    "index": layer.index,
                    "name": layer.name,
                    "parameters": layer.parameters,
                    "flops": layer.flops,
                    "segment": number,
                    "importance": {name: float(scores[layer.index]) for name, scores in self.importance.items()},
                    "removed": layer.index in removed,
                    "reason": reason,
                }
            )
        return rows

    def write(self, directory: Path, rows: list[dict[str, Any]]) -> None:
        """`analysis.json`, `similarity.npz` and `similarity.f32` (L × L float32, little endian)."""
        content = {
            "layers": rows,
            "layer_names": [layer.name for layer in self.stack.layers],
            "segments": [list(s) for s in self.segmentation.segments],
            "loss_curve": list(self.segmentation.loss_curve),
            "estimator": self.estimator,
            "kernel": self.kernel,
            "n_samples": self.n_samples,
            "sample_unit": self.sample_unit,
        }
        (directory / "analysis.json").write_text(json.dumps(content, indent=2))
        matrix = self.similarity.astype("<f4")
        (directory / "similarity.f32").write_bytes(matrix.tobytes())
        np.savez(
            directory / "similarity.npz",
            similarity=matrix,
            layer_names=np.array(content["layer_names"]),
            segments=np.array(self.segmentation.segments),
            allow_pickle=False,
            **{f"importance_{name}": scores for name, scores in self.importance.items()},
            **{f"run_importance_{name}": scores for name, scores in self.run_importance.items()},
        )
