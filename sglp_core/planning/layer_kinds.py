"""Hybrid stacks: layers of several kinds, such as attention and state-space layers, of which each keeps one.

A stock class expects its kinds: without any attention layer the cache of a hybrid model cannot even tell its length.
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
    """The cheapest plan, where of a kind that would vanish the dearest layer stays.

    `costs` are those of runs, `[L + 1, L + 1]`. Exact where no kind would vanish. Raises `TargetUnreachable`.
    """
    sizes, total = stack.sizes(target.kind)
    while True:
        found = plan(
            target,
            costs=stack.removable(costs),
            sizes=sizes,
            total=total,
            segments=segments,
            protected=protected,
        )
        vanished = stack.vanished_kind(found.removed_layers)
        if not vanished:
            return found
        protected = protected | {max(vanished, key=lambda i: (costs[i, i + 1], i))}
