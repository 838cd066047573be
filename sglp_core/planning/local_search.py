"""Swap removed layers for kept ones while the model says that it harms less: coordinate exchange on the real loss.

What one layer is worth depends on which others are gone, so a proposal made from scores of the dense model is a good
start and seldom the best plan. One round tries the plan without each removed layer and with each kept one removed too;
the sum of such changes foretells what swaps do, and those foretold best, of one layer and of several, are tried for
real.
"""

from collections.abc import Callable, Sequence

from sglp_core.planning.harm import FINAL_PARTS, Judge
from sglp_core.structure.runs import Removed

# How many swaps of a round are tried for real, and how many layers may go in exchange for as many at once.
CANDIDATES = 7
LARGEST_SWAP = 4
CONFIRMING_PARTS = 4
ROUNDS_IN_VAIN = 2


def refine(
    judge: Judge, start: Removed, free: Sequence[int], allowed: Callable[[Removed], bool], budget: int
) -> Removed:
    """A set of layers that harms the model no more than `start` does, as far as a budget of trials allows.

    `free` are the layers that may be removed at all, and `allowed` says whether a set reaches the target. Ends after
    `ROUNDS_IN_VAIN`, or when the budget does not last for another round.
    """
    best, in_vain = start, 0
    while in_vain < ROUNDS_IN_VAIN and judge.spent + _cost_of_round(free) <= budget:
        found = judge.best([best, *_likely_better(judge, best, free, allowed)])
        # The best of many is partly the luckiest, so it must be better once more, on other windows.
        again = judge([best, found], CONFIRMING_PARTS) if found != best else {best: 0.0}
        if again[found] < again[best]:
            best, in_vain = found, 0
        else:
            in_vain += 1
    return best


def _likely_better(
    judge: Judge, removed: Removed, free: Sequence[int], allowed: Callable[[Removed], bool]
) -> list[Removed]:
    """The swaps, and the returns of single layers, that are foretold to harm least."""
    without = {i: _without(removed, i) for i in removed}
    also = {j: _also(removed, j) for j in free if j not in removed}
    found = judge([removed, *without.values(), *also.values()])
    put_back = {i: found[smaller] - found[removed] for i, smaller in without.items()}
    taken = {j: found[larger] - found[removed] for j, larger in also.items()}
    foretold = {_without(removed, i): change for i, change in put_back.items()}
    foretold |= {_also(without[i], j): put_back[i] + taken[j] for i in without for j in also}
    worst, cheapest = sorted(put_back, key=lambda i: put_back[i]), sorted(taken, key=lambda j: taken[j])
    for count in range(2, 1 + min(LARGEST_SWAP, len(worst), len(cheapest))):
        many = set(removed) - set(worst[:count]) | set(cheapest[:count])
        foretold[tuple(sorted(many))] = sum(put_back[i] for i in worst[:count]) + sum(
            taken[j] for j in cheapest[:count]
        )
    better = [candidate for candidate, change in foretold.items() if change < 0 and allowed(candidate)]
    return sorted(better, key=lambda c: (foretold[c], c))[:CANDIDATES]


def _cost_of_round(free: Sequence[int]) -> int:
    return len(free) + 1 + 2 * (CANDIDATES + 1) + FINAL_PARTS + 2 * CONFIRMING_PARTS


def _without(removed: Removed, layer: int) -> Removed:
    return tuple(i for i in removed if i != layer)


def _also(removed: Removed, layer: int) -> Removed:
    return tuple(sorted((*removed, layer)))
