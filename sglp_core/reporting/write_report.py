"""The files that a job writes beside the model: analysis, pictures, report, model card and manifest."""

import json
from pathlib import Path

from sglp_core.analysis.result import Analysis
from sglp_core.artifact import files
from sglp_core.reporting import markdown
from sglp_core.reporting.json_form import to_json
from sglp_core.reporting.layer_table import layer_rows, write_analysis
from sglp_core.reporting.report import AnalyzeReport, CompressReport, EstimateReport, Report, SweepReport
from sglp_core.reporting.similarity_figure import draw_similarity


def require_new(output: Path) -> None:
    """Raises `FileExistsError` where `output` is not empty; called before the work, not after it."""
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty; name a new directory")


def write_report(
    output: Path,
    report: AnalyzeReport | CompressReport | SweepReport,
    analysis: Analysis | None,
    original_card: str = "",
) -> None:
    """Write the report, its plan and its analysis to `output`; there is no analysis where the plan was given.

    `original_card` is the text that goes below that of the smaller model's card.
    """
    compressed = report if isinstance(report, CompressReport) else None
    if analysis is not None:
        write_analysis(analysis, output, layer_rows(analysis, report))
        draw_similarity(
            analysis.similarity,
            analysis.segmentation.segments,
            compressed.plan.removed_layers if compressed else (),
            f"{report.model.origin}: CKA between layers",
            output / "similarity.png",
        )
    page = markdown.report_page(report)
    _write_pages(output, report, page)
    if compressed:
        (output / "plan.json").write_text(json.dumps(plan_target(compressed)))
        (output / "model" / "README.md").write_text(markdown.model_card(compressed, page, original_card))
    files.write_manifest(
        output,
        {
            "input": to_json(report.model),
            "seed": report.calibration.seed,
            "calibration_digest": report.calibration.digest,
            "layer_map": compressed.layer_map if compressed else None,
        },
    )


def write_estimate(output: Path, report: EstimateReport) -> None:
    """Write the estimate to `output`."""
    _write_pages(output, report, markdown.estimate_page(report))
    files.write_manifest(output, {"input": to_json(report.model)})


def plan_target(report: CompressReport) -> dict[str, object]:
    """`plan.json`: the target that applies the same plan to another model with as many layers."""
    removed = report.plan.removed_layers
    return {"kind": "plan", "layers": len(report.layer_map) + len(removed), "remove": list(removed)}


def _write_pages(output: Path, report: Report, page: str) -> None:
    (output / "report.json").write_text(json.dumps(report.to_dict(), indent=2))
    (output / "report.md").write_text(page)
