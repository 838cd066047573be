"""The table of layers, and the analysis as files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sglp_core.analysis.result import Analysis
from sglp_core.planning.plan import Plan


def layer_rows(analysis: Analysis, plan: Plan | None, protected: set[int], why: str) -> list[dict[str, Any]]:
    """One row a layer: what it weighs, where it lies, what it is worth, and whether and `why` it goes."""
    removed = set(plan.removed_layers) if plan else set()
    rows = []
    for layer in analysis.stack.layers:
        number = next(
            n for n, (first, last) in enumerate(analysis.segmentation.segments) if first <= layer.index <= last
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
                "importance": {name: float(scores[layer.index]) for name, scores in analysis.importance.items()},
                "removed": layer.index in removed,
                "reason": reason,
            }
        )
    return rows


def write_analysis(analysis: Analysis, directory: Path, rows: list[dict[str, Any]]) -> None:
    """`analysis.json`, `similarity.npz` and `similarity.f32` (L × L float32, little endian)."""
    content = {
        "layers": rows,
        "layer_names": [layer.name for layer in analysis.stack.layers],
        "segments": [list(s) for s in analysis.segmentation.segments],
        "loss_curve": list(analysis.segmentation.loss_curve),
        "estimator": analysis.estimator,
        "kernel": analysis.kernel,
        "n_samples": analysis.n_samples,
        "sample_unit": analysis.sample_unit,
    }
    (directory / "analysis.json").write_text(json.dumps(content, indent=2))
    matrix = analysis.similarity.astype("<f4")
    (directory / "similarity.f32").write_bytes(matrix.tobytes())
    np.savez(
        directory / "similarity.npz",
        similarity=matrix,
        layer_names=np.array(content["layer_names"]),
        segments=np.array(analysis.segmentation.segments),
        allow_pickle=False,
        **{f"importance_{name}": scores for name, scores in analysis.importance.items()},
        **{f"run_importance_{name}": scores for name, scores in analysis.run_importance.items()},
    )
