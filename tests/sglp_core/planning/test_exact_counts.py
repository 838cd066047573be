"""Exact numbers of layers: which can go, and the cheapest set of that size, against brute force over all sets."""

from itertools import combinations

import numpy as np
import pytest

from sglp_core import LayersTarget, Target
from sglp_core.errors import TargetUnreachable
from sglp_core.planning.layer_kinds import largest_removable, plan_keeping_kinds, removable_counts, require_count
from sglp_core.planning.plan import choose, costs_of_layers, reaches
from sglp_core.structure.layer_stack import Layer, LayerStack
from sglp_core.structure.runs import Run, Stage, runs_of

LAYERS = 9
SIZES = (7, 1, 12, 3, 9, 2, 8, 5, 4)


def stack_of(places: str, kinds: str, stages: tuple[Stage, ...] = (Stage(0, LAYERS),)) -> LayerStack:
    """One layer a letter: what the class builds at its place, and its kind."""
    layers = tuple(
        Layer(index, f"layers.{index}", SIZES[index], 10, position_signature=place, kinds=(kind,))
        for index, (place, kind) in enumerate(zip(places, kinds, strict=True))
    )
    return LayerStack("layers", stages, layers, 100, 100, 16)


STACKS = {
    "alike": stack_of("." * 9, "a" * 9),
    "two kinds": stack_of("." * 9, "aabaaabaa"),
    "periods of three": stack_of("aabaabaab", "aabaabaab"),
    "places, first and last special": stack_of("faaaaaaal", "a" * 9),
    "stages": stack_of("." * 9, "a" * 9, (Stage(0, 2), Stage(2, 7), Stage(7, 9))),
    "stages of places and kinds": stack_of("abbabbcab", "aabaabbab", (Stage(0, 4), Stage(4, 9))),
    "each by its place": stack_of("abcdefghi", "a" * 9),
    "all kinds once": stack_of("." * 9, "abcdefghi"),
}


@pytest.mark.parametrize("protected", [set(), {0, LAYERS - 1}, {1, 4}, set(range(LAYERS))], ids=str)
@pytest.mark.parametrize("name", STACKS)
def test_the_numbers_and_the_most_that_can_go_are_those_of_some_set(name: str, protected: set[int]) -> None:
    stack = STACKS[name]
    possible = [
        removed
        for count in range(1, LAYERS)
        for removed in combinations(range(LAYERS), count)
        if stack.can_remove(removed) and not protected.intersection(removed)
    ]
    assert removable_counts(stack, protected) == sorted({len(removed) for removed in possible})
    sizes, _ = stack.sizes("parameters")
    largest = max((sum(sizes[layer] for layer in removed) for removed in possible), default=0)
    assert largest_removable(stack, "parameters", protected) == largest


@pytest.mark.parametrize("seed", range(20))
def test_the_cheapest_set_of_a_size_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = np.triu(rng.normal(1, 1, (LAYERS + 1,) * 2), 1)
    costs[rng.random(costs.shape) < 0.3 * (np.tri(LAYERS + 1) == 0)] = np.inf
    whole = [Run(0, LAYERS)]
    for count in range(1, LAYERS):
        sets = list(combinations(range(1, LAYERS), count))
        cheapest = min(sum(costs[run] for run in runs_of(each)) for each in sets)
        found = choose(costs, [1] * LAYERS, count, whole, {0}, most=count)
        if cheapest == np.inf:
            assert found is None
            continue
        assert found is not None
        assert len(found) == count
        assert sum(costs[run] for run in runs_of(found)) == pytest.approx(cheapest)


def test_a_number_that_cannot_go_names_the_nearest_that_can() -> None:
    with pytest.raises(
        TargetUnreachable, match=r"exactly 2 of the 9 layers: .* are 3 \(1 layers are protected, the model"
    ):
        require_count(STACKS["periods of three"], 2, {8})
    with pytest.raises(TargetUnreachable, match=r"exactly 4 .* are 3 or 6"):
        require_count(STACKS["periods of three"], 4, {8})
    with pytest.raises(TargetUnreachable, match=r"exactly 1 .* are none"):
        require_count(STACKS["all kinds once"], 1, set())


def test_a_ratio_out_of_reach_counts_only_what_may_go_and_says_why() -> None:
    stack = STACKS["each by its place"]
    costs = costs_of_layers([1.0] * LAYERS)
    with pytest.raises(TargetUnreachable, match=r"largest reachable ratio is 0 .* builds layers by their places"):
        plan_keeping_kinds(stack, Target("layers", 0.34), costs, stack.stages, {0, LAYERS - 1})
    with pytest.raises(TargetUnreachable, match=r"largest reachable ratio is 0\.7778 .* protected, and everything"):
        plan_keeping_kinds(STACKS["alike"], Target("layers", 0.8), costs, [Run(0, LAYERS)], {0, LAYERS - 1})


def test_a_number_to_remove_and_one_to_leave_are_one_target() -> None:
    assert LayersTarget(count=8).of(32) == LayersTarget(left=24).of(32) == Target("layers", 0.25, exact=True)


@pytest.mark.parametrize("target", [LayersTarget(count=6), LayersTarget(count=7), LayersTarget(left=6)], ids=str)
def test_all_layers_and_none_cannot_be_removed(target: LayersTarget) -> None:
    with pytest.raises(TargetUnreachable, match=r"/target/(count|left) is \d, and the model has 6 layers"):
        target.of(6)


@pytest.mark.parametrize("numbers", [{}, {"count": 1, "left": 1}, {"count": 0}, {"left": -1}], ids=str)
def test_a_number_is_given_once_and_is_positive(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give one of count and left"):
        LayersTarget(**numbers)


@pytest.mark.parametrize("layers", [3, 7, 49, 93, 100])
def test_every_exact_number_is_reached_by_itself_alone(layers: int) -> None:
    """Ratios of numbers are rounded: 15 / 93 × 93 is not 15."""
    for count in range(1, layers):
        target = LayersTarget(count=count).of(layers)
        assert [size for size in range(layers + 1) if reaches(target, size, layers)] == [count]


def test_a_ratio_is_at_least_and_names_the_number_where_it_is_meant() -> None:
    assert [size for size in range(7) if reaches(Target("layers", 0.5), size, 6)] == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="LayersTarget takes a number"):
        Target("layers", 2)
    with pytest.raises(ValueError, match="only layers"):
        Target("parameters", 0.5, exact=True)
