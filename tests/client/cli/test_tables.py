"""The tables that the command shows of a job's result."""

import io
from typing import Any

import pytest
from rich.console import Console
from sglp_client.cli.tables import show_figures

FIGURES = {"perplexity": 17692.3, "accuracy": 0.33, "agreement": 0.71234, "kl": 0.24412}
AFTER_REPAIR = {"perplexity": 45.123, "accuracy": 0.35, "agreement": 0.75, "kl": 0.2}


def shown(result: dict[str, Any]) -> list[list[str]]:
    """The cells of all rows of tables, as they are where the output is no terminal."""
    console = Console(file=io.StringIO(), width=80)
    show_figures(console, "model", result)
    lines = console.file.getvalue().splitlines()
    return [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in lines if line[:1] in "│┃"]


def control(name: str, repaired: dict[str, float] | None) -> dict[str, Any]:
    return {"name": name, **FIGURES, "repaired": repaired, "removed_layers": [1], "beats_plan": False}


def test_a_control_stands_beside_the_plan_as_cut_and_repaired() -> None:
    rows = shown({"controls": [control("sglp", AFTER_REPAIR), control("block_influence", None)]})
    assert rows == [
        ["plan", "perplexity", "repaired", "agreement", "repaired", "kl", "repaired"],
        ["sglp", "1.769e+04", "45.12", "0.7123", "0.75", "0.2441", "0.2"],
        ["block_influence", "1.769e+04", "", "0.7123", "", "0.2441", ""],
    ]


def test_without_a_repair_there_is_no_column_for_it() -> None:
    older = control("random", None)
    # Results of older versions lack the field.
    del older["repaired"]
    rows = shown({"controls": [control("sglp", None), older]})
    assert rows == [
        ["plan", "perplexity", "agreement", "kl"],
        ["sglp", "1.769e+04", "0.7123", "0.2441"],
        ["random", "1.769e+04", "0.7123", "0.2441"],
    ]


def test_a_sweep_has_a_row_for_each_point() -> None:
    dense = {"achieved": 0.0, "layers": 30, "parameters": 134_515_008, **FIGURES, "prefill_seconds": None}
    cut = {**dense, "achieved": 0.2, "layers": 24, "prefill_seconds": 0.25, "kl": None}
    rows = shown({"sweep": {"of": "layers", "points": [dense, cut], "unreachable": [], "knee": None}})
    assert rows == [
        ["removed", "layers", "parameters", "perplexity", "agreement", "kl", "prefill s"],
        ["0", "30", "134,515,008", "1.769e+04", "0.7123", "0.2441", ""],
        ["0.2", "24", "134,515,008", "1.769e+04", "0.7123", "", "0.25"],
    ]


@pytest.mark.parametrize(
    ("gain", "line"),
    [
        ((0.12, 0.08, 0.151), "gain of 0.12 nats a position (95 %: 0.08 to 0.151) on 32 held-out samples"),
        (
            (0.12, -0.01, 0.25),
            "gain of 0.12 nats a position (95 %: -0.01 to 0.25) on 32 held-out samples; the interval includes 0, so it "
            "may be chance",
        ),
        ((0.12, None, None), "gain of 0.12 nats a position (no interval) on 32 held-out samples"),
        ((None, None, None), "gain of infinitely many nats a position (no interval) on 32 held-out samples"),
        (None, None),
    ],
)
def test_a_gain_of_healing_comes_with_its_interval(gain: tuple[float | None, ...] | None, line: str | None) -> None:
    console = Console(file=io.StringIO(), width=80)
    named = gain and dict(zip(("mean", "low", "high"), gain, strict=True))
    show_figures(console, "model", {"healing": {"gain": named, "judged_windows": 32}})
    assert console.file.getvalue() == (f"healing: {line}\n" if line else "")
