"""Every criterion proposes a plan; the model itself says which proposal harms it least.

Scores of single layers miss how removals interact, and no criterion is best on every model. A proposal is cheap to
check: the dense model with those layers bypassed, on calibration data, against the dense model.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from sglp_core.analysis import Analysis
from sglp_core.errors import TargetUnreachable
from sglp_core.evaluation import evaluate
from sglp_core.objectives import Batch, Task
from sglp_core.planning import Plan, costs_of_layers, plan, segment_ranks
from sglp_core.target import Target


@dataclass(frozen=True)
class Proposal:
    """One plan and who proposed it; `kl` is KL(dense ‖ pruned) in nats a token, mean over the `batches` it was seen on.

    A proposal is seen on more batches the better it does.
    """

    proposed_by: tuple[str, ...]
    plan: Plan
    kl: float
    batches: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "proposed_by": list(self.proposed_by),
            "removed_layers": list(self.plan.removed_layers),
            "kl": self.kl if math.isfinite(self.kl) else None,
            "batches": self.batches,
        }


def propose(analysis: Analysis, target: Target, protected: set[int]) -> dict[tuple[str, ...], Plan]:
    """The different plans of all criteria, inside the segments and over the whole stack; keys name who proposed each.

    Raises `TargetUnreachable` where not even the whole stack has enough to remove.
    """
    sizes, total = analysis.stack.sizes(target.kind)
    whole = ((0, len(analysis.stack) - 1),)
    plans: dict[tuple[int, ...], Plan] = {}
    names: dict[tuple[int, ...], list[str]] = {}
    for where, segments in (("stack", whole), ("segments", analysis.segmentation.segments)):
        costs = {n: costs_of_layers(segment_ranks(s.tolist(), segments)) for n, s in analysis.importance.items()}
        costs |= {f"{name}_of_runs": matrix for name, matrix in analysis.run_importance.items()}
        for name, matrix in costs.items():
            try:
                found = plan(target, costs=matrix, sizes=sizes, total=total, segments=segments, protected=protected)
            except TargetUnreachable:
                if segments == whole:
                    raise
                # Keeping a layer of every segment leaves too little; the whole stack's proposals remain.
                break
            plans.setdefault(found.removed_layers, found)
            names.setdefault(found.removed_layers, []).append(f"{name}/{where}")
    return {tuple(names[removed]): found for removed, found in plans.items()}


def select(
    model: Any,
    layers: nn.ModuleList,
    batches: Iterable[Batch],
    task: Task,
    plans: Mapping[tuple[str, ...], Plan],
    on_batch: Callable[[], None] = lambda: None,
) -> list[Proposal]:
    """The proposals, best first, by successive halving: after every batch the worse half is out, until one is left.

    Cost: about twice as many forward passes over one batch as there are proposals.
    """
    sums = dict.fromkeys(plans, 0.0)
    seen = dict.fromkeys(plans, 0)
    alive = list(plans)
    for batch in batches:
        variants = {str(number): plans[names].removed_layers for number, names in enumerate(alive)}
        quality = evaluate(model, layers, [batch], task, variants)
        for number, names in enumerate(alive):
            kl = quality[str(number)].kl
            sums[names] += kl if math.isfinite(kl) else math.inf
            seen[names] += 1
        on_batch()
        alive = sorted(alive, key=lambda names: sums[names])[: math.ceil(len(alive) / 2)]
        if len(alive) == 1:
            break
    found = [Proposal(names, p, sums[names] / seen[names], seen[names]) for names, p in plans.items()]
    return sorted(found, key=lambda p: (p.plan.removed_layers != plans[alive[0]].removed_layers, -p.batches, p.kl))
