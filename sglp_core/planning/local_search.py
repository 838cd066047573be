"""Improve a set of removed layers by exchanging removed for kept layers: coordinate exchange on the loss of the model.

How much a layer is worth depends on which others are removed, so a plan made from scores of the dense model is a good
start and seldom the best. Each round measures the plan with each removed layer put back, and with each kept layer
removed too. The sum of two such changes estimates a swap; the swaps with the best estimates, of one layer and of
several, are measured: chosen on some windows, and confirmed on others, because the best of many is partly the luckiest.
"""

from collections.abc import Callable, Sequence

from sglp_core.planning.harm import HarmMeter
from sglp_core.structure.runs import Removed

# How many swaps are measured in a round, and how many layers at most are exchanged in one swap.
CANDIDATES = 6
LARGEST_SWAP = 4
# Changes of one layer are measured on so many parts of the data, the most that the budget allows; swaps are chosen on
# twice as many, and confirmed on as many again.
PARTS = (2, 1)
MOST_ROUNDS = 2


def refine(
    meter: HarmMeter, start: Removed, free: Sequence[int], allowed: Callable[[Removed], bool], budget: int
) -> Removed:
    """A set of layers that harms the model no more than `start` does, found within a budget of trials.

    `free` are the layers that may be removed at all, and `allowed` says whether a set reaches the target. Ends after
    `MOST_ROUNDS`, after a round without a better set, or when the budget is too small for another.
    """
    best = start
    for _ in range(MOST_ROUNDS):
        parts = _affordable(budget - meter.spent, free)
        if not parts:
            break
        swaps = _promising_swaps(meter, best, free, allowed, parts)
        harms = meter.each_part([best, *swaps], 4 * parts)
        chosen = min(harms, key=lambda removed: sum(harms[removed][: 2 * parts]))
        if sum(harms[chosen][2 * parts :]) < sum(harms[best][2 * parts :]):
            best = chosen
        else:
            break
    return best


def _promising_swaps(
    meter: HarmMeter, removed: Removed, free: Sequence[int], allowed: Callable[[Removed], bool], parts: int
) -> list[Removed]:
    """The swaps, and the sets with one layer put back, whose estimated change of harm is lowest and below zero."""
    smaller_sets = {i: _without(removed, i) for i in removed}
    larger_sets = {j: _with(removed, j) for j in free if j not in removed}
    harm = meter([removed, *smaller_sets.values(), *larger_sets.values()], parts)
    put_back = {i: harm[smaller] - harm[removed] for i, smaller in smaller_sets.items()}
    taken = {j: harm[larger] - harm[removed] for j, larger in larger_sets.items()}
    estimated = {smaller_sets[i]: change for i, change in put_back.items()}
    estimated |= {_with(smaller_sets[i], j): put_back[i] + taken[j] for i in smaller_sets for j in larger_sets}
    worst, cheapest = sorted(put_back, key=lambda i: put_back[i]), sorted(taken, key=lambda j: taken[j])
    for count in range(2, 1 + min(LARGEST_SWAP, len(worst), len(cheapest))):
        swapped = set(removed) - set(worst[:count]) | set(cheapest[:count])
        change = sum(put_back[i] for i in worst[:count]) + sum(taken[j] for j in cheapest[:count])
        estimated[tuple(sorted(swapped))] = change
    better = [candidate for candidate, change in estimated.items() if change < 0 and allowed(candidate)]
    return sorted(better, key=lambda c: (estimated[c], c))[:CANDIDATES]


def _affordable(trials: int, free: Sequence[int]) -> int:
    """The most parts on which a round can be made with so many trials; 0 where there is no round."""
    return next((parts for parts in PARTS if parts * (len(free) + 1 + 4 * (CANDIDATES + 1)) <= trials), 0)


def _without(removed: Removed, layer: int) -> Removed:
    return tuple(i for i in removed if i != layer)


def _with(removed: Removed, layer: int) -> Removed:
    return tuple(sorted((*removed, layer)))
