"""The tables and the picture of language_healing, from its finished rows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown_table import print_table

NAMES = {
    "proposals": "SGLP (`proposals`)",
    "proposals_plain": "SGLP, healed on the text alone",
    "block_influence": "block influence",
    "random": "random layers",
    "last_layers": "last layers",
}

# A result for each way to choose layers.
Rows = Mapping[str, Mapping[str, Any]]


def print_results(title: str, rows: Rows) -> None:
    """Print quality on test text, and a table for each figure of the curves."""
    print_table(f"{title}; WikiText-2 test", _rows(rows))
    for figure in ("kl", "agreement", "perplexity"):
        print_table(f"{title}; {figure} on held-out calibration windows", _curve_rows(rows, figure))


def _rows(rows: Rows) -> Iterator[dict[str, str]]:
    for name, result in rows.items():
        stages = result["stages"]
        yield {
            "layers chosen by": NAMES[name],
            "removed": ", ".join(map(str, result["removed_layers"])),
            "fewer parameters": f"{result['fewer_parameters']:.1%}",
            **{
                f"{stage}: perplexity / agreement / KL": _figures(stages.get(stage))
                for stage in ("dense", "pruned", "repaired", "healed")
            },
            "tokens of the kept weights": f"{result['kept_tokens']:,}",
            "seconds of healing": f"{result['seconds']['healing']:,.0f}",
            "verified": str(result["verified"]),
        }


def _figures(stage: dict[str, Any] | None) -> str:
    if stage is None:
        return ""
    return " / ".join(_number(stage[figure]) for figure in ("perplexity", "agreement", "kl"))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _curve_rows(rows: Rows, figure: str) -> Iterator[dict[str, str]]:
    """A row for each number of tokens seen, a column for each way to choose; empty where training had ended."""
    curves = {
        NAMES[name]: {point["tokens"]: point[figure] for point in result["curve"]} for name, result in rows.items()
    }
    for tokens in sorted(set().union(*curves.values())):
        yield {
            "tokens": f"{tokens:,}",
            **{name: _number(curve[tokens]) if tokens in curve else "" for name, curve in curves.items()},
        }


def draw(tables: Mapping[str, Rows], path: Path) -> None:
    """KL against tokens, a drawing for each number of removed layers; the ending of `path` says the format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(tables), 4.2), layout="constrained")
    drawings: Sequence[Any] = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(drawings, tables.items(), strict=True):
        for name, result in rows.items():
            points = [(point["tokens"] / 1e6, point["kl"]) for point in result["curve"] if point["kl"] is not None]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=NAMES[name].replace("`", ""))
        axes.set(title=title, xlabel="million tokens", ylabel="KL from the dense model, nats a token", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    figure.savefig(path, dpi=120)
