from itertools import combinations

import numpy as np
import pytest

from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.planning.plan import choose, costs_of_layers, largest_removal, plan, segment_ranks
from sglp_core.structure.runs import Segment

SEGMENTS = [Segment(0, 3), Segment(3, 4), Segment(4, 9)]
PROTECTED = {0, 8}


def allowed_sets() -> list[tuple[int, ...]]:
    free = [i for i in range(9) if i not in PROTECTED]
    sets = [c for k in range(len(free) + 1) for c in combinations(free, k)]
    return [s for s in sets if all(any(i not in s for i in segment.layers) for segment in SEGMENTS)]


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_is_as_cheap_as_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, sizes = rng.random(9).tolist(), rng.integers(1, 6, 9).tolist()
    for needed in range(1, 20):
        enough = [s for s in allowed_sets() if sum(sizes[i] for i in s) >= needed]
        found = choose(costs_of_layers(costs), sizes, needed, SEGMENTS, PROTECTED)
        if not enough:
            assert found is None
            continue
        assert found in enough
        assert sum(costs[i] for i in found) == pytest.approx(min(sum(costs[i] for i in s) for s in enough))
    assert largest_removal(costs_of_layers(costs), sizes, SEGMENTS, PROTECTED) == max(
        sum(sizes[i] for i in s) for s in allowed_sets()
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_of_runs_is_as_cheap_as_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Runs that cost less or more than their layers do, some of them less than nothing.
    costs, sizes = np.triu(rng.normal(1, 1, (10, 10)), 1), rng.integers(1, 6, 9).tolist()
    # And some that are forbidden.
    costs[rng.random((10, 10)) < 0.2 * (np.tri(10) == 0)] = np.inf
    allowed = [s for s in allowed_sets() if cost_of_runs(s, costs) < np.inf]
    largest = max(sum(sizes[i] for i in s) for s in allowed)
    assert largest_removal(costs, sizes, SEGMENTS, PROTECTED) == largest
    for needed in range(1, 20):
        enough = [s for s in allowed if just_reaches(s, sizes, needed, costs)]
        found = choose(costs, sizes, needed, SEGMENTS, PROTECTED)
        if not enough:
            assert found is None
            continue
        assert found in enough
        assert cost_of_runs(found, costs) == pytest.approx(min(cost_of_runs(s, costs) for s in enough))


def just_reaches(removed: tuple[int, ...], sizes: list[int], needed: int, costs: np.ndarray) -> bool:
    """Enough, and neither without the last run nor with any shorter run in its place."""
    start = max(i for i in removed if i - 1 not in removed) if removed else 0
    shorter = [end for end in range(start, max(removed, default=0) + 1) if end == start or costs[start, end] < np.inf]
    sums = [sum(sizes[i] for i in removed if i < end) for end in shorter]
    return sum(sizes[i] for i in removed) >= needed and all(total < needed for total in sums)


def cost_of_runs(removed: tuple[int, ...], costs: np.ndarray) -> float:
    starts = [i for i in removed if i - 1 not in removed]
    return sum(costs[i, next(j for j in range(i, 10) if j not in removed)] for i in starts)


@pytest.mark.parametrize("seed", range(3))
def test_layers_that_all_differ_in_size_are_planned_as_a_knapsack(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, sizes = rng.random(24), rng.integers(1, 4000, 24)
    needed = int(sizes.sum() * 0.4)
    # The classic table: the least cost of each sum of sizes.
    least = np.full(sizes.sum() + 1, np.inf)
    least[0] = 0
    for cost, size in zip(costs, sizes, strict=True):
        least[size:] = np.minimum(least[size:], least[:-size] + cost)
    found = choose(costs_of_layers(costs.tolist()), sizes.tolist(), needed, [Segment(0, 24)], set())
    assert found is not None
    assert sizes[list(found)].sum() >= needed
    assert costs[list(found)].sum() == pytest.approx(least[needed:].min())


def test_ranks_are_counted_inside_segments() -> None:
    assert segment_ranks([5, 1, 9, 2, 1], [Segment(0, 3), Segment(3, 5)]) == pytest.approx([2 / 3, 1 / 3, 1, 1, 1 / 2])


def test_three_of_ten_layers_are_three() -> None:
    found = plan(
        Target("layers", 0.3),
        costs=costs_of_layers(range(10)),
        sizes=[1] * 10,
        total=10,
        segments=[Segment(0, 10)],
        protected={0, 9},
    )
    assert found.removed_layers == (1, 2, 3)
    assert found.achieved == pytest.approx(0.3)
    assert found.reachable == pytest.approx(0.8)


def test_an_unreachable_target_names_the_largest_reachable_ratio() -> None:
    with pytest.raises(TargetUnreachable, match=r"largest reachable ratio is 0\.8"):
        plan(
            Target("layers", 0.9),
            costs=costs_of_layers(range(10)),
            sizes=[1] * 10,
            total=10,
            segments=[Segment(0, 10)],
            protected={0, 9},
        )


@pytest.mark.parametrize("ratio", [0, 1, -1, float("nan"), float("inf")])
def test_a_ratio_outside_0_and_1_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Target("parameters", ratio)
