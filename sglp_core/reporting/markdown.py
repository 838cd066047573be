"""Reports as Markdown, from the Jinja templates in `templates/`."""

from pathlib import Path

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sglp_core.architectures import IMAGE_CLASSIFIERS
from sglp_core.reporting.quality_target import QualityTargetSection
from sglp_core.reporting.report import AnalyzeReport, CompressReport, EstimateReport, SweepReport
from sglp_core.reporting.sweep import SweepSection

SWEEP_COLUMNS = (
    "layers", "parameters", "flops", "perplexity", "accuracy", "agreement", "kl", "prefill_seconds", "decode_seconds",
)  # fmt: skip


def figure(value: float | None) -> str:
    """A number for a table: integers in full, others with four significant digits."""
    if value is None:
        return "not finite"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def plain(text: str) -> str:
    """Text on one line and inside one table cell, whatever characters it has: names come with models and files."""
    return " ".join(text.split()).replace("|", "\\|")


def megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters.update(figure=figure, plain=plain, megabytes=megabytes)


def report_page(report: AnalyzeReport | CompressReport | SweepReport) -> str:
    """`report.md` of a job."""
    compressed = report if isinstance(report, CompressReport) else None
    sweep = report.sweep if isinstance(report, SweepReport) else None
    return TEMPLATES.get_template("report.md.jinja").render(
        report=report,
        compressed=compressed is not None,
        quality_target=compressed.quality_target if compressed else None,
        sweep=sweep,
        columns=_columns(sweep) if sweep else (),
    )


def sweep_section(sweep: SweepSection) -> str:
    return TEMPLATES.get_template("sweep.md.jinja").render(sweep=sweep, columns=_columns(sweep))


def quality_target_section(target: QualityTargetSection) -> str:
    return TEMPLATES.get_template("quality_target.md.jinja").render(quality_target=target)


def estimate_page(report: EstimateReport) -> str:
    """`report.md` of an estimate."""
    return TEMPLATES.get_template("estimate.md.jinja").render(report=report)


def model_card(report: CompressReport, page: str, original_text: str) -> str:
    """`README.md` of the smaller model: what it was made from, its licence, the page of the report, and the text of the
    original's card.
    """
    metadata = ModelCardData(
        license=report.model.licence,
        base_model=report.model.origin if report.model.revision else None,
        library_name="transformers",
        tags=["sglp", "layer-pruning"],
    )
    return TEMPLATES.get_template("model_card.md.jinja").render(
        metadata=metadata.to_yaml(),
        model=report.model,
        own_architecture=report.model.class_name in {each.__name__ for each in IMAGE_CLASSIFIERS.values()},
        page=page,
        original_text=original_text,
    )


def _columns(sweep: SweepSection) -> list[str]:
    """The columns that have a figure in some row."""
    return [name for name in SWEEP_COLUMNS if any(getattr(point, name) is not None for point in sweep.points)]
