"""The tables that the command shows of a job's result."""

import io
from typing import Any

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
