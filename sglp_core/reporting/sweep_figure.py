"""The picture of a sweep: quality against size and against time, with the knee marked."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sglp_core.planning.sweep import Point


def _prefill(point: Point) -> float | None:
    return None if point.latency is None else point.latency.prefill_seconds * 1e3


def _decode(point: Point) -> float | None:
    seconds = point.latency.decode_seconds if point.latency else None
    return None if seconds is None else seconds * 1e3


COSTS: dict[str, Callable[[Point], float | None]] = {
    "parameters left (millions)": lambda point: point.parameters / 1e6,
    "prefill (ms)": _prefill,
    "one more token (ms)": _decode,
}


def draw_sweep(points: Sequence[Point], knee: Point | None, title: str, path: Path) -> None:
    """Write a PNG of perplexity (log scale) and agreement, each against parameters, prefill and decode time.

    Times that were not measured have no column.
    """
    across = {}
    for name, cost_of in COSTS.items():
        values = [value for value in map(cost_of, points) if value is not None]
        if values:
            across[name] = values
    up = {
        "perplexity": [each.quality.perplexity for each in points],
        "agreement with dense": [each.quality.agreement for each in points],
    }
    # Imported only here, because most processes draw nothing.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(across), 7), layout="constrained")
    grid = figure.subplots(len(up), len(across), squeeze=False)
    for row, (quality, ys) in zip(grid, up.items(), strict=True):
        for axes, (cost, xs) in zip(row, across.items(), strict=True):
            axes.plot(xs, ys, marker="o", color="#2a6f97")
            axes.scatter(xs[:1], ys[:1], color="black", zorder=3, label="dense")
            if knee is not None:
                at = points.index(knee)
                axes.scatter(
                    xs[at], ys[at], marker="*", s=220, color="#ff3b30", zorder=3,
                    label=f"knee: {knee.achieved:.3g} removed",
                )  # fmt: skip
            axes.set(xlabel=cost, ylabel=quality, yscale="log" if quality == "perplexity" else "linear")
            axes.grid(alpha=0.3)
            axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
