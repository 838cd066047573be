"""Swap removed layers for kept ones while the model says that it harms less: coordinate exchange on the real loss.

What one layer is worth depends on which others are gone, so a proposal made from scores of the dense model is a good
start and seldom the best plan. One round tries the plan without each removed layer and with each kept one removed too;
the sum of two such changes foretells what swapping them does, and the swaps foretold best are tried for real.
"""

from collections.abc import Callable, Sequence

from sglp_core.judging import Judge, Removed

PARTS_A_ROUND = 2
# How many swaps of a round are tried for real.
CANDIDATES = 7


def refine(judge: Judge, start: Removed, free: Sequence[int], allowed: Callable[[Removed], bool]) -> Removed:
    """A set of layers that harms the model no more than `start` does, as far as the judge's budget allows.

    `free` are the layers that may be removed at all, and `allowed` says whether a set reaches the target. Ends when no
    swap is better, or when the budget does not last for another round.
    """
    best = start
    while judge.spent + _cost_of_round(free) <= judge.budget:
        found = judge.best([best, *_likely_better(judge, best, free, allowed)])
        if found == best:
            break
        best = found
    return best


def _likely_better(
    judge: Judge, removed: Removed, free: Sequence[int], allowed: Callable[[Removed], bool]
) -> list[Removed]:
    """The swaps, and the returns of single layers, that are foretold to harm least."""
    without = {i: _without(removed, i) for i in removed}
    also = {j: _also(removed, j) for j in free if j not in removed}
    found = judge([removed, *without.values(), *also.values()], PARTS_A_ROUND)
    foretold = {
        _also(without[i], j): found[without[i]] + found[also[j]] - found[removed] for i in without for j in also
    }
    foretold |= {smaller: found[smaller] for smaller in without.values()}
    likely = sorted((candidate for candidate in foretold if allowed(candidate)), key=lambda c: (foretold[c], c))
    return [candidate for candidate in likely[:CANDIDATES] if foretold[candidate] < found[removed]]


def _cost_of_round(free: Sequence[int]) -> int:
    return PARTS_A_ROUND * (len(free) + 1) + 2 * (CANDIDATES + 1)


def _without(removed: Removed, layer: int) -> Removed:
    return tuple(i for i in removed if i != layer)


def _also(removed: Removed, layer: int) -> Removed:
    return tuple(sorted((*removed, layer)))
