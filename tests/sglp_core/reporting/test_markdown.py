"""Names come with models and files; whatever is in them, a table stays a table."""

import dataclasses

import pytest
from jinja2 import UndefinedError

from sglp_core.reporting.estimate import EstimateSection, OutlinedModelSection, ReachableRatio, SpeedSection
from sglp_core.reporting.markdown import TEMPLATES, estimate_page, figure, plain, sweep_section
from sglp_core.reporting.report import EstimateReport
from sglp_core.reporting.sweep import Knee, SweepPoint, SweepSection, UnreachableRatio

DENSE = SweepPoint(
    requested=0.0,
    achieved=0.0,
    removed_layers=(),
    layers=6,
    parameters=1_234_567,
    flops=2_000,
    weight_bytes=4_000,
    perplexity=12.3456,
    accuracy=0.5,
    agreement=1.0,
    kl=0.0,
    prefill_seconds=0.001,
    decode_seconds=None,
)
CUT = dataclasses.replace(DENSE, requested=0.5, achieved=0.5, removed_layers=(1, 2, 3), layers=3, perplexity=None)


def test_a_sweep_has_a_row_a_point_and_no_empty_column() -> None:
    page = sweep_section(
        SweepSection("layers", (DENSE, CUT), (UnreachableRatio(0.9, "at most\n0.7 | of it"),), Knee(0.5, 0.5))
    )
    assert page.split("\n")[4:12] == [
        "| asked | removed | layers | parameters | flops | perplexity | accuracy | agreement | kl | prefill_seconds |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        "| 0 | 0 | 6 | 1,234,567 | 2,000 | 12.35 | 0.5 | 1 | 0 | 0.001 |",
        "| 0.5 | 0.5 | 3 | 1,234,567 | 2,000 | not finite | 0.5 | 1 | 0 | 0.001 |",
        "",
        "- 0.9: at most 0.7 \\| of it",
        "",
        "**Knee at 0.5 removed**: the point of ln perplexity against the fraction removed that lies furthest below the "
        "chord between the ends of the sweep, so it depends on where the sweep ends.",
    ]
    assert page.endswith("ends.\n")


def test_a_sweep_without_a_knee_says_so() -> None:
    page = sweep_section(SweepSection("layers", (DENSE,), (), None))
    assert page.endswith("| 0.001 |\n\nNo knee: no point lies below the chord between the ends of the sweep.\n")


def test_a_name_of_several_lines_stays_in_its_heading() -> None:
    ratio = ReachableRatio(0.5, 0.1, 0.1)
    report = EstimateReport(
        OutlinedModelSection("one\n\n| two |\n", None, "safetensors", "LlamaForCausalLM", "F32", ()),
        EstimateSection(
            layers=6,
            parameters=1_000,
            flops=2_000,
            weight_bytes=4_000,
            stack=(),
            reachable={"layers": ratio},
            memory_bytes={"measuring": None},
            peak_memory_bytes=None,
            available_memory_bytes=8_000_000_000,
            streamed=False,
            seconds={"opening": 1.25},
            total_seconds=1234.5,
            speed=SpeedSection(1e9, 1e9),
        ),
    )
    page = estimate_page(report)
    assert page.startswith("# one \\| two \\|: estimate\n\nLlamaForCausalLM in F32: 6 layers, 1,000 parameters")
    assert "Peak memory not known, of the 8,000 MB that the worker has free.\n" in page
    assert "\n| layers | 0.5000 | 0.1000–0.1000 |\n" in page
    assert page.endswith("| opening | 1.2 |  |\n| all | 1,234.5 |  |\n")


@pytest.mark.parametrize(
    ("value", "shown"), [(1_234_567, "1,234,567"), (0.123456, "0.1235"), (12345.6, "1.235e+04"), (None, "not finite")]
)
def test_figures_are_short_and_counts_whole(value: float | None, shown: str) -> None:
    assert figure(value) == shown


def test_text_is_one_line_of_one_cell() -> None:
    assert plain("a |\r\n b") == "a \\| b"


def test_a_template_that_asks_for_what_there_is_not_fails() -> None:
    with pytest.raises(UndefinedError):
        TEMPLATES.get_template("estimate.md.jinja").render()
