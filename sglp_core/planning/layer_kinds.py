"""Hybrid stacks have layers of several kinds, such as attention and state-space layers; a plan keeps one of each kind.

A model class expects a layer of every kind: without an attention layer the cache of a hybrid model has no length.
"""

from collections.abc import Sequence

import numpy as np

from sglp_core.options import Target
from sglp_core.planning.plan import Plan, plan
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
