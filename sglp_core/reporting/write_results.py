"""Everything a job leaves behind beside the model itself: matrix, table, picture, report, card and manifest."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sglp_core.analysis.cache import Origin
from sglp_core.analysis.result import Analysis
from sglp_core.artifact import files
from sglp_core.loading.loaded_model import Opened
from sglp_core.options import Calibration, Method
from sglp_core.planning.plan import Plan
from sglp_core.reporting import quality_budget, report
from sglp_core.reporting import sweep as sweep_report
from sglp_core.reporting.layer_table import layer_rows, write_analysis
from sglp_core.reporting.similarity_figure import draw_similarity


def require_new(output: Path) -> None:
    """Raises `FileExistsError` where something lies in `output`: better now than after the work."""
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; name a new directory")


def write_results(
    output: Path,
    opened: Opened,
    analysis: Analysis,
    origin: Origin,
    method: Method,
    calibration: Calibration,
    *,
    plan: Plan | None,
    why: str,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """Write it all to `output`, `extra` being what only this kind of job reports, and return the report."""
    rows = layer_rows(analysis, plan, method.protected_in(len(opened.stack)), why)
    write_analysis(analysis, output, rows)
    removed = plan.removed_layers if plan else ()
    draw_similarity(
        analysis.similarity,
        analysis.segmentation.segments,
        removed,
        f"{opened.fetched.origin}: CKA between layers",
        output / "similarity.png",
    )
    content = {
        "model": {
            "origin": opened.fetched.origin,
            "revision": opened.fetched.revision,
            "sha256": opened.source.digest,
            "format": opened.source.format,
            "class": opened.class_name,
            "licence": opened.source.licence,
        },
        "method": asdict(method),
        "calibration": {**asdict(calibration), "digest": analysis.calibration_digest},
        "analysis": {
            **origin.to_dict(),
            "estimator": analysis.estimator,
            "kernel": analysis.kernel,
            "n_samples": analysis.n_samples,
            "sample_unit": analysis.sample_unit,
            "segments": [list(s) for s in analysis.segmentation.segments],
            "loss_curve": list(analysis.segmentation.loss_curve),
            "sequence_length": analysis.stack.sequence_length,
        },
        **extra,
    }
    text = f"{report.to_markdown(content)}\n{origin.to_markdown()}"
    if "sweep" in content:
        text += f"\n{sweep_report.to_markdown(content['sweep'])}"
    if "quality_target" in content:
        text += f"\n{quality_budget.to_markdown(content['quality_target'])}"
    (output / "report.json").write_text(json.dumps(content, indent=2))
    (output / "report.md").write_text(text)
    if plan:
        files.write_card(output / "model", opened.fetched, opened.source, opened.class_name, text)
    files.write_manifest(
        output,
        {
            "input": content["model"],
            "seed": calibration.seed,
            "calibration_digest": analysis.calibration_digest,
            "layer_map": extra.get("layer_map"),
        },
    )
    return content
