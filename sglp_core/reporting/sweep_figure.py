"""The picture of a sweep: quality against size and against time, with the knee marked."""

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sglp_core.planning.sweep import Point


def draw_sweep(points: Sequence[Point], knee: Point | None, title: str, path: Path) -> None:
    """Write a PNG of perplexity (log scale) and agreement, each against parameters, prefill and decode time."""
    columns: dict[str, Callable[[Point], float]] = {
        "parameters left (millions)": lambda p: p.parameters / 1e6,
        "prefill (ms)": lambda p: p.latency.prefill_seconds * 1e3,
    }
    if points[0].latency.decode_seconds is not None:
        columns["one more token (ms)"] = lambda p: 1e3 * (p.latency.decode_seconds or 0.0)
    rows: dict[str, Callable[[Point], float]] = {
        "perplexity": lambda p: p.quality.perplexity,
        "agreement with dense": lambda p: p.quality.agreement,
    }
    figure = Figure(figsize=(4.2 * len(columns), 7), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, (quality, up) in zip(grid, rows.items(), strict=True):
        for axes, (cost, across) in zip(row, columns.items(), strict=True):
            axes.plot([across(p) for p in points], [up(p) for p in points], marker="o", color="#2a6f97")
            axes.scatter([across(points[0])], [up(points[0])], color="black", zorder=3, label="dense")
            if knee is not None:
                axes.scatter(
                    [across(knee)], [up(knee)], marker="*", s=220, color="#ff3b30", zorder=3,
                    label=f"knee: {knee.achieved:.3g} removed",
                )  # fmt: skip
            axes.set(xlabel=cost, ylabel=quality, yscale="log" if quality == "perplexity" else "linear")
            axes.grid(alpha=0.3)
            axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
