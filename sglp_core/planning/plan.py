"""Choose the layers to remove: the cheapest set that reaches the target and keeps a layer of every segment."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.structure.runs import Removed, Run

# One part in 10¹²: 0.3 of 10 layers is three layers, although 0.3 × 10 > 3 in binary.
SLACK = 1 - 1e-12


def reaches(target: Target, size: float, total: int) -> bool:
    """Whether removing so much of the total is what the target asks for; `size` and `total` in its unit."""
    return target.ratio * total * SLACK <= size <= most_of(target, total)


def most_of(target: Target, total: int) -> float:
    """The largest size that a plan for the target may remove."""
    return target.ratio * total / SLACK if target.exact else math.inf


@dataclass(frozen=True)
class Plan:
    """The layers to remove for a target; all ratios are fractions of the whole model.

    `reachable` is the largest ratio any plan could remove while every segment keeps a layer and the protected
    layers stay.
    """

    target: Target
    removed_layers: Removed
    requested: float
    reachable: float
    achieved: float

    def to_dict(self) -> dict[str, object]:
        return {
            "kind": self.target.kind,
            "exact": self.target.exact,
            "requested": self.requested,
            "reachable": self.reachable,
            "achieved": self.achieved,
            "removed_layers": list(self.removed_layers),
        }


def segment_ranks(scores: Sequence[float], segments: Sequence[Run]) -> list[float]:
    """Scores made comparable across segments: rank inside the segment over its size, in (0, 1].

    Raw scores of different segments are not on one scale (GradNorm falls with depth). With rank/size the first
    layer of a large segment costs less than that of a small one, so the budget follows the sizes of the segments.
    """
    ranks = [0.0] * len(scores)
    for segment in segments:
        order = sorted(segment.layers, key=lambda layer: (scores[layer], layer))
        for position, layer in enumerate(order, 1):
            ranks[layer] = position / len(order)
    return ranks


def choose(
    costs: np.ndarray,
    sizes: Sequence[int],
    needed: float,
    segments: Sequence[Run],
    protected: set[int],
    most: float = math.inf,
) -> Removed | None:
    """The layers of least total cost whose sizes sum to at least `needed` and at most `most`, or None where none do.

    `costs[i, j]`, of `[L + 1, L + 1]`, is what removing the run of layers i to j − 1 costs; `costs_of_layers` makes one
    where a run costs what its layers do; an infinite cost forbids the run. Every segment keeps at least one
    layer and protected layers stay. From front to back, no more is removed once the target is reached, however little
    it costs. Exact: sets are extended run by run, and of those of one size the cheapest at each layer is kept (with
    more than `MOST_SIZES` sizes, exact where a run costs what its layers do). Equal costs are settled the same way
    every time.
    """
    count = len(sizes)
    before = np.concatenate([[0], np.cumsum(sizes)])
    # waiting[p]: (cost, size, removed layers) of the sets that are decided up to layer p and keep the layer before it.
    waiting: list[list[PartialSet]] = [[] for _ in range(count + 2)]
    waiting[0] = [(0.0, 0, ())]
    for start in range(count + 1):
        for cost, size, removed in _undominated(waiting[start], needed):
            for end in run_ends(start, costs[start], segments, protected):
                run = (cost + float(costs[start, end]), size + int(before[end] - before[start]))
                if run[1] > most:
                    break
                waiting[end + 1].append((*run, (*removed, *range(start, end))))
                if run[1] >= needed:
                    break
    # A set that keeps the last layer arrives one place earlier; the empty run there carries it to the end.
    ends = [(round(cost, 12), size, removed) for cost, size, removed in waiting[-1] if size >= needed]
    return min(ends)[2] if ends else None


def costs_of_layers(costs: Sequence[float]) -> np.ndarray:
    """Costs of runs `[L + 1, L + 1]` where a run costs the sum of its layers."""
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    result: np.ndarray = sums[None, :] - sums[:, None]
    return result


def largest_removal(costs: np.ndarray, sizes: Sequence[int], segments: Sequence[Run], protected: set[int]) -> int:
    """The largest total size any allowed set removes; of the `costs` of runs only counts which are infinite."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    # largest[p]: of the sets that are decided up to layer p and keep the layer before it.
    largest = [0] * (len(sizes) + 2)
    for start in range(len(sizes) + 1):
        for end in run_ends(start, costs[start], segments, protected):
            largest[end + 1] = max(largest[end + 1], largest[start] + int(before[end] - before[start]))
    return largest[-1]


def plan(
    target: Target,
    *,
    costs: np.ndarray,
    sizes: Sequence[int],
    total: int,
    segments: Sequence[Run],
    protected: set[int],
) -> Plan:
    """Plan a removal; `costs` are those of runs, as in `choose`; `sizes` and `total` in the unit of `target.kind`.

    Raises `TargetUnreachable`, naming the largest reachable ratio.
    """
    reachable = largest_removal(costs, sizes, segments, protected) / total
    removed = choose(costs, sizes, target.ratio * total * SLACK, segments, protected, most_of(target, total))
    if removed is None:
        amount = f"exactly {round(target.ratio * total)}" if target.exact else f"{target.ratio:.4g}"
        raise TargetUnreachable(
            f"cannot remove {amount} of the {target.kind}: the largest reachable ratio is {reachable:.4g} "
            f"({len(segments)} segments keep one layer each, {len(protected)} layers are protected{by_place(costs)}, "
            "and everything outside the layer stack stays). Ask for less, for fewer segments, or protect fewer layers."
        )
    achieved = sum(sizes[layer] for layer in removed) / total
    return Plan(target, removed, target.ratio, reachable, achieved)


def by_place(costs: np.ndarray) -> str:
    """What to add to a message where some runs have infinite costs."""
    all_finite = np.isfinite(costs[np.triu_indices(len(costs), 1)]).all()
    return "" if all_finite else ", the model class builds layers by their places, which the layers that stay must fit"


def run_ends(start: int, costs: np.ndarray, segments: Sequence[Run], protected: set[int]) -> Iterator[int]:
    """Where a run that starts here may end (exclusive), the empty run first; `costs` `[L + 1]` is its row of costs."""
    for end in range(start, len(costs)):
        if end > start and (end - 1 in protected or any(start <= s.start and s.stop <= end for s in segments)):
            return
        if np.isfinite(costs[end]):
            yield end


# Cost, size and layers of a set that is decided up to some layer.
PartialSet = tuple[float, int, Removed]
# Layers of equal size have at most L + 1 sums of sizes; layers that all differ could have 2ᴸ.
MOST_SIZES = 2000


def _undominated(sets: list[PartialSet], needed: float) -> list[PartialSet]:
    """The cheapest set of each size; sizes beyond the target count as one.

    With more than `MOST_SIZES` sizes, a set is dropped where a cheaper one is at least as large.
    """
    cheapest: dict[float, PartialSet] = {}
    for each in sorted(sets, key=lambda s: (round(s[0], 12), s[1], s[2])):
        cheapest.setdefault(min(each[1], needed), each)
    if len(cheapest) <= MOST_SIZES:
        return list(cheapest.values())
    kept: list[PartialSet] = []
    for each in cheapest.values():
        if not kept or each[1] > kept[-1][1]:
            kept.append(each)
    return kept
