"""The table of layers, and the files of an analysis."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sglp_core.analysis.result import Analysis
from sglp_core.reporting.json_form import to_json
from sglp_core.reporting.report import AnalyzeReport, CompressReport, SweepReport


@dataclass(frozen=True)
class LayerRow:
    """One layer: its size and segment, its importance by every criterion, and whether and why it was removed.

    `flops` are those of one forward pass of one sample.
    """

    index: int
    name: str
    parameters: int
    flops: int
    segment: int
    importance: dict[str, float]
    removed: bool
    reason: str


def layer_rows(analysis: Analysis, report: AnalyzeReport | CompressReport | SweepReport) -> list[LayerRow]:
    """One row a layer, in order."""
    protected = report.method.protected_in(len(analysis.stack))
    removed = report.plan.removed_layers if isinstance(report, CompressReport) else ()
    if isinstance(report, CompressReport):
        kept_reason, removed_reason = "kept by the plan", _removed_reason(report)
    else:
        kept_reason, removed_reason = "nothing was planned", ""
    rows = []
    for layer in analysis.stack.layers:
        segment = next(n for n, each in enumerate(analysis.segmentation.segments) if layer.index in each.layers)
        reason = removed_reason if layer.index in removed else kept_reason
        rows.append(
            LayerRow(
                index=layer.index,
                name=layer.name,
                parameters=layer.parameters,
                flops=layer.flops,
                segment=segment,
                importance={name: float(scores[layer.index]) for name, scores in analysis.importance.items()},
                removed=layer.index in removed,
                reason="protected" if layer.index in protected else reason,
            )
        )
    return rows


def _removed_reason(report: CompressReport) -> str:
    if report.proposals:
        return f"in the proposal that harms the model least, by {', '.join(report.proposals[0].proposed_by)}"
    return f"among the least {report.method.importance} of its segment"


def write_analysis(analysis: Analysis, directory: Path, rows: list[LayerRow]) -> None:
    """`analysis.json`, `similarity.npz` and `similarity.f32` (L × L float32, little endian).

    Segments are written as first and last layer, both included.
    """
    layer_names = [layer.name for layer in analysis.stack.layers]
    segments = [segment.first_and_last for segment in analysis.segmentation.segments]
    content = {
        "layers": to_json(rows),
        "layer_names": layer_names,
        "segments": [list(segment) for segment in segments],
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
        layer_names=np.array(layer_names),
        segments=np.array(segments),
        allow_pickle=False,
        **{f"importance_{name}": scores for name, scores in analysis.importance.items()},
        **{f"run_importance_{name}": scores for name, scores in analysis.run_importance.items()},
    )
