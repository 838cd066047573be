"""Hybrid stacks have layers of several kinds, such as attention and state-space layers; a plan keeps one of each kind.

A model class expects a layer of every kind: without an attention layer the cache of a hybrid model has no length. Some
configurations also refuse to be made without a layer of some type, such as full attention among sliding windows.
"""

from collections.abc import Callable, Sequence
from operator import or_

import numpy as np

from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.planning.plan import Plan, by_place, plan, run_ends
from sglp_core.structure.layer_stack import LayerStack
from sglp_core.structure.runs import Run


def plan_keeping_kinds(
    stack: LayerStack, target: Target, costs: np.ndarray, segments: Sequence[Run], protected: set[int]
) -> Plan:
    """The cheapest plan that keeps a layer of every kind.

    Where the cheapest plan of all would remove a whole kind, the layer of it that costs most is protected and the plan
    is made again; the plan is exact where this does not happen. `costs` are those of runs `[L + 1, L + 1]`.
    Raises `TargetUnreachable`.
    """
    sizes, total = stack.sizes(target.kind)
    while True:
        cheapest = plan(
            target,
            costs=stack.removable(costs),
            sizes=sizes,
            total=total,
            segments=segments,
            protected=protected,
        )
        vanished = stack.vanished_kind(cheapest.removed_layers)
        if not vanished:
            return cheapest
        protected = protected | {max(vanished, key=lambda i: (costs[i, i + 1], i))}


def removable_counts(stack: LayerStack, protected: set[int]) -> list[int]:
    """The numbers of layers that a plan can remove, rising: the protected ones and one of each stage and kind stay."""
    # As bits, of which number n says that n layers can go.
    counts = _over_all_sets(stack, protected, 1, lambda counts, run: counts << len(run.layers), or_) or 0
    return [count for count in range(1, len(stack)) if counts >> count & 1]


def largest_removable(stack: LayerStack, target_kind: str, protected: set[int]) -> int:
    """The largest size that a plan can remove, in the unit of the target's kind, with the same staying."""
    sizes, _ = stack.sizes(target_kind)
    return _over_all_sets(stack, protected, 0, lambda size, run: size + sum(sizes[run.start : run.stop]), max) or 0


def require_count(stack: LayerStack, count: int, protected: set[int]) -> None:
    """Raise `TargetUnreachable`, naming the nearest numbers, where no plan removes exactly so many layers."""
    counts = removable_counts(stack, protected)
    if count not in counts:
        nearest = [max((n for n in counts if n < count), default=0), min((n for n in counts if n > count), default=0)]
        known = " or ".join(str(n) for n in nearest if n) or "none"
        raise TargetUnreachable(
            f"cannot remove exactly {count} of the {len(stack)} layers: the nearest numbers that can go are {known} "
            f"({len(protected)} layers are protected{by_place(_any_cost(stack))}, and a layer of every stage and kind "
            "stays)"
        )


def _over_all_sets(
    stack: LayerStack,
    protected: set[int],
    nothing: int,
    removed: Callable[[int, Run], int],
    merged: Callable[[int, int], int],
) -> int | None:
    """What `merged` makes of all sets that can be removed; `removed` extends the entry of a set by a run.

    Exact: sets are extended run by run, as in `choose`, and those that keep the same kinds are merged. None where no
    set keeps what must stay.
    """
    layers = len(stack)
    names = dict.fromkeys(kind for layer in stack.layers for kind in layer.kinds)
    kinds = {kind: 1 << number for number, kind in enumerate(names)}
    costs = _any_cost(stack)
    # waiting[p]: the sets that are decided up to layer p and keep the layer before it, by the kinds that they keep.
    waiting: list[dict[int, int]] = [{} for _ in range(layers + 2)]
    waiting[0] = {0: nothing}
    for start in range(layers + 1):
        for end in run_ends(start, costs[start], stack.stages, protected):
            kept = sum(kinds[kind] for kind in stack.layers[end].kinds) if end < layers else 0
            for earlier, known in waiting[start].items():
                extended, there = removed(known, Run(start, end)), waiting[end + 1].get(earlier | kept)
                waiting[end + 1][earlier | kept] = extended if there is None else merged(there, extended)
    return waiting[-1].get(sum(kinds.values()))


def _any_cost(stack: LayerStack) -> np.ndarray:
    """Costs of runs that say no more than which can be removed."""
    return stack.removable(np.zeros((len(stack) + 1,) * 2))
