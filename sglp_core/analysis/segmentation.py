"""Fisher's optimal partition of ordered samples, exact, and how many segments to take.

The samples are the rows of the similarity matrix in layer order (Fisher 1958; SGLP, arXiv 2410.14720).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sglp_core.analysis.knee import knee
from sglp_core.options import Feature
from sglp_core.structure.runs import Segment, Stage


@dataclass(frozen=True)
class Segmentation:
    """`loss_curve[k-1]` is the least loss with k segments; None where k is less than the number of stages."""

    segments: tuple[Segment, ...]
    loss_curve: tuple[float | None, ...]


def segment(
    similarity: np.ndarray,
    segments: int | Literal["auto"] = "auto",
    feature: Feature = "rows",
    stages: Sequence[Stage] = (),
) -> Segmentation:
    """Cut the layers of a similarity matrix `[L, L]` into coherent segments.

    No segment crosses a border of `stages` (one for the whole stack by default); where more stages than `segments`
    are given, each stage is one segment.
    """
    samples = similarity if feature == "rows" else similarity.sum(1, keepdims=True)
    n = len(samples)
    if segments != "auto" and not 1 <= segments <= n:
        raise ValueError(f"the number of segments must lie between 1 and the {n} layers, not {segments}")
    stages = stages or (Stage(0, n),)
    losses, starts = optimal_partitions(within_stages(diameters(samples), stages))
    fewest = len(stages)
    curve = tuple(float(x) for x in losses[fewest - 1 :, n - 1])
    # A curve without a knee gives no reason for more segments than there must be.
    count = fewest + (knee(range(len(curve)), curve) or 0) if segments == "auto" else max(segments, fewest)
    return Segmentation(_trace_back(starts, count), (None,) * (fewest - 1) + curve)


def diameters(samples: np.ndarray) -> np.ndarray:
    """`D[i, j]` = Σ_{t=i..j} ‖x_t − mean(x_i..x_j)‖² for samples `[n, d]`, from prefix sums in float64."""
    x = samples.astype(np.float64) - samples.mean(0)
    n = len(x)
    sums = np.vstack([np.zeros(x.shape[1]), np.cumsum(x, 0)])
    squares = np.concatenate([[0.0], np.cumsum((x**2).sum(1))])
    result = np.zeros((n, n))
    for i in range(n):
        lengths = np.arange(1, n - i + 1)
        total = sums[i + 1 :] - sums[i]
        result[i, i:] = squares[i + 1 :] - squares[i] - (total**2).sum(1) / lengths
    return np.maximum(result, 0.0)


def within_stages(diameter: np.ndarray, stages: Sequence[Stage]) -> np.ndarray:
    """Diameters `[n, n]`, infinite where a run crosses a border."""
    number = np.repeat(np.arange(len(stages)), [len(stage.layers) for stage in stages])
    result: np.ndarray = np.where(number[:, None] == number[None, :], diameter, np.inf)
    return result


def optimal_partitions(diameter: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least loss `[k-1, j]` of cutting samples 0..j into k runs, and where the last run starts."""
    n = len(diameter)
    losses = np.full((n, n), np.inf)
    starts = np.zeros((n, n), dtype=np.int64)
    losses[0] = diameter[0]
    for k in range(1, n):
        for j in range(k, n):
            candidates = losses[k - 1, k - 1 : j] + diameter[k : j + 1, j]
            best = int(np.argmin(candidates))
            losses[k, j] = candidates[best]
            starts[k, j] = k + best
    return losses, starts


def _trace_back(starts: np.ndarray, count: int) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    stop = starts.shape[1]
    for k in range(count - 1, -1, -1):
        start = int(starts[k, stop - 1]) if k else 0
        segments.append(Segment(start, stop))
        stop = start
    return tuple(reversed(segments))
