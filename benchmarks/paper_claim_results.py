"""The table and the picture of `benchmarks.paper_claim`, from its results file."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.markdown_table import print_table
from benchmarks.paper_claim_rows import TEST_IMAGES
from benchmarks.results_file import ResultsFile

NAMES = {
    "dense": "none: the dense network",
    "proposals": "SGLP (`proposals`)",
    "grad_norm": "SGLP (the paper's rule)",
    "block_influence": "block influence",
    "torch_pruning": "none: Torch-Pruning, narrower",
    "last_layers": "last blocks",
    "random": "random blocks",
}
# Points of accuracy that may be missing to the dense network.
MISSING = (1.0, 0.5)


@dataclass(frozen=True)
class Point:
    """Accuracy in percent on the test set after so many images: the mean over the seeds, and its standard error.

    With one seed the error is that of a share of the test images.
    """

    images: int
    accuracy: float
    error: float
    seeds: int


@dataclass(frozen=True)
class Curve:
    """The points of a row, by images, and what its network was before."""

    row: str
    fewer: dict[str, float]
    blocks: int
    before: dict[str, float]
    points: list[Point]


def print_results(results: ResultsFile, network: str) -> None:
    """Print the accuracy of every row after every number of images."""
    curves = curves_of(results, network)
    if not curves:
        return
    print_table(f"{network}, accuracy on the test set in percent", _table(curves))


def curves_of(results: ResultsFile, network: str) -> list[Curve]:
    """All rows of a network in the order of `NAMES`; the newest result of those with the same row, epochs and seed."""
    newest: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
    for settings, result in results.rows():
        if settings["network"] == network:
            images = settings["epochs"] * settings["images"]
            newest.setdefault(settings["row"], {}).setdefault(images, {})[settings["seed"]] = result
    curves = []
    for row in sorted(newest, key=list(NAMES).index):
        by_images = newest[row]
        runs = [run for by_seed in by_images.values() for run in by_seed.values()]
        curves.append(
            Curve(
                row,
                {name: min(run["fewer"][name] for run in runs) for name in runs[0]["fewer"]},
                len(runs[0]["removed"]),
                {
                    name: 100 * statistics.mean(run["accuracy"][name] for run in runs if name in run["accuracy"])
                    for name in runs[0]["accuracy"]
                    if name != "healed"
                },
                [
                    _point(images, [run["accuracy"] for run in by_images[images].values()])
                    for images in sorted(by_images)
                ],
            )
        )
    return curves


def _point(images: int, found: Sequence[dict[str, float]]) -> Point:
    shares = [accuracy["healed"] for accuracy in found]
    mean = statistics.mean(shares)
    error = (
        statistics.stdev(shares) / math.sqrt(len(shares))
        if len(shares) > 1
        else math.sqrt(mean * (1 - mean) / TEST_IMAGES)
    )
    return Point(images, 100 * mean, 100 * error, len(shares))


def _table(curves: Sequence[Curve]) -> Iterator[dict[str, str]]:
    all_images = sorted({point.images for curve in curves for point in curve.points})
    dense = next((curve for curve in curves if curve.row == "dense"), None)
    for curve in curves:
        by_images = {point.images: point for point in curve.points}
        yield {
            "blocks chosen by": NAMES[curve.row],
            "blocks": f"−{curve.blocks}" if curve.blocks else "",
            "parameters": f"−{curve.fewer['parameters']:.1%}" if curve.fewer["parameters"] else "",
            "FLOPs": f"−{curve.fewer['flops']:.1%}" if curve.fewer["flops"] else "",
            "before": f"{list(curve.before.values())[-1]:.2f}",
            **{f"{images:,} images": _cell(by_images[images]) if images in by_images else "" for images in all_images},
            **{
                f"images to {missing:g} below": _needed(curve, dense, missing) if dense and curve is not dense else ""
                for missing in MISSING
            },
        }


def _cell(point: Point) -> str:
    return f"{point.accuracy:.2f} ± {point.error:.2f}" + (f" ({point.seeds} seeds)" if point.seeds > 1 else "")


def _needed(curve: Curve, dense: Curve, missing: float) -> str:
    """The images after which no more than so many points are missing to the best of the dense network.

    Between two points of the curve it is taken as a line over the logarithm of the images.
    """
    aim = max(point.accuracy for point in dense.points) - missing
    before: Point | None = None
    for point in curve.points:
        if point.accuracy >= aim:
            if before is None:
                return f"≤ {point.images:,}"
            share = (aim - before.accuracy) / (point.accuracy - before.accuracy)
            return f"{before.images * (point.images / before.images) ** share:,.0f}"
        before = point
    return f"> {curve.points[-1].images:,}"


def draw(results: ResultsFile, network: str, path: Path) -> None:
    """Write an SVG of accuracy against images seen, a line for each row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for curve in curves_of(results, network):
        images, accuracy, error = (
            [getattr(point, name) for point in curve.points] for name in ("images", "accuracy", "error")
        )
        style: dict[str, Any] = {"color": "black", "linestyle": "--"} if curve.row == "dense" else {}
        axes.errorbar(images, accuracy, error, marker="o", capsize=2, label=NAMES[curve.row].replace("`", ""), **style)
    axes.set_xscale("log")
    axes.set_xlabel("training images seen")
    axes.set_ylabel("accuracy on the test set (%)")
    axes.set_title(network)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
