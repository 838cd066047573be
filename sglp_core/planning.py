"""Which layers go: the exact cheapest set that reaches the target, segment by segment."""

from collections.abc import Sequence
from dataclasses import dataclass

from sglp_core.errors import TargetUnreachable
from sglp_core.target import Target


@dataclass(frozen=True)
class Plan:
    """What is removed and why it is enough; all ratios are fractions of the whole model.

    `reachable` is the largest ratio any plan could remove while every segment keeps a layer and the protected
    layers stay.
    """

    target: Target
    removed_layers: tuple[int, ...]
    requested: float
    reachable: float
    achieved: float

    def to_dict(self) -> dict[str, object]:
        return {
            "kind": self.target.kind,
            "requested": self.requested,
            "reachable": self.reachable,
            "achieved": self.achieved,
            "removed_layers": list(self.removed_layers),
        }


def segment_ranks(scores: Sequence[float], segments: Sequence[tuple[int, int]]) -> list[float]:
    """Scores made comparable across segments: rank inside the segment over its size, in (0, 1].

    Raw scores of different segments are not on one scale (GradNorm falls with depth). With rank/size the first
    layer of a large segment costs less than that of a small one, so the budget follows the sizes of the segments.
    """
    ranks = [0.0] * len(scores)
    for first, last in segments:
        order = sorted(range(first, last + 1), key=lambda layer: (scores[layer], layer))
        for position, layer in enumerate(order, 1):
            ranks[layer] = position / len(order)
    return ranks


def choose(
    costs: Sequence[float],
    sizes: Sequence[int],
    needed: float,
    segments: Sequence[tuple[int, int]],
    protected: set[int],
) -> tuple[int, ...] | None:
    """The set of layers of least total cost whose sizes sum to at least `needed`, or None where no set does.

    Every segment keeps at least one layer and protected layers stay. Exact: partial sets are extended layer by
    layer and dropped only when another one is at least as large, as cheap and as free. Equal costs are settled the
    same way every time.
    """
    # A state is (cost, size, removed layers, whether the running segment has kept a layer).
    states: list[tuple[float, int, tuple[int, ...], bool]] = [(0.0, 0, (), True)]
    for first, last in segments:
        states = [(cost, size, removed, False) for cost, size, removed, kept in states if kept]
        for layer in range(first, last + 1):
            grown = [(cost, size, removed, True) for cost, size, removed, _ in states]
            if layer not in protected:
                grown += [
                    (cost + costs[layer], size + sizes[layer], (*removed, layer), kept)
                    for cost, size, removed, kept in states
                ]
            states = _undominated(grown, needed)
    ends = [(round(cost, 12), size, removed) for cost, size, removed, kept in states if kept and size >= needed]
    return min(ends)[2] if ends else None


def largest_removal(sizes: Sequence[int], segments: Sequence[tuple[int, int]], protected: set[int]) -> int:
    """The largest total size any allowed set removes."""
    total = 0
    for first, last in segments:
        free = [sizes[layer] for layer in range(first, last + 1) if layer not in protected]
        keeps_one = len(free) <= last - first
        total += sum(free) - (0 if keeps_one else min(free))
    return total


def plan(
    target: Target,
    *,
    scores: Sequence[float],
    sizes: Sequence[int],
    total: int,
    segments: Sequence[tuple[int, int]],
    protected: set[int],
) -> Plan:
    """Plan a removal; `sizes` and `total` are in the unit of `target.kind`.

    Raises `TargetUnreachable`, naming the largest reachable ratio.
    """
    reachable = largest_removal(sizes, segments, protected) / total
    # One part in 10¹² of slack: 0.3 of 10 layers is three layers, although 0.3 × 10 > 3 in binary.
    removed = choose(segment_ranks(scores, segments), sizes, target.ratio * total * (1 - 1e-12), segments, protected)
    if removed is None:
        raise TargetUnreachable(
            f"cannot remove {target.ratio:.4g} of the {target.kind}: the largest reachable ratio is {reachable:.4g} "
            f"({len(segments)} segments keep one layer each, {len(protected)} layers are protected, and everything "
            "outside the layer stack stays). Ask for less, for fewer segments, or protect fewer layers."
        )
    achieved = sum(sizes[layer] for layer in removed) / total
    return Plan(target, removed, target.ratio, reachable, achieved)


State = tuple[float, int, tuple[int, ...], bool]


def _undominated(states: list[State], needed: float) -> list[State]:
    kept: list[State] = []
    frontier: dict[bool, list[tuple[float, int]]] = {True: [], False: []}
    for state in sorted(
        states, key=lambda s: (round(s[0], 12), s[1] < needed, s[1] if s[1] >= needed else -s[1], s[2])
    ):
        cost, size, _, free = state
        # Sizes beyond the target are all worth the same; only a smaller overshoot at equal cost counts as better.
        rivals = frontier[True] + ([] if free else frontier[False])
        if any(other >= min(size, needed) for _, other in rivals):
            continue
        frontier[free].append((cost, size))
        kept.append(state)
    return kept
