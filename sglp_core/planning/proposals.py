"""Every criterion proposes a plan; the model itself says which proposal harms it least.

Scores of single layers miss how removals interact, and no criterion is best on every model. A proposal is cheap to
check: the dense model with those layers bypassed, on calibration data, against the dense model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sglp_core.analysis.result import Analysis
from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.planning.harm import Judge
from sglp_core.planning.layer_kinds import plan_keeping_kinds
from sglp_core.planning.local_search import refine
from sglp_core.planning.plan import SLACK, Plan, costs_of_layers, segment_ranks
from sglp_core.structure.runs import Removed, Run

# Plans with a single cut that each measure of runs proposes: similarity, and every criterion that also scores runs.
CUTS_PER_MEASURE = 3


@dataclass(frozen=True)
class Proposal:
    """One plan and who proposed it; `harm` is KL(dense ‖ pruned) plus the rise of the loss, mean over its `trials`.

    Each trial is on a few other windows, and a proposal has more of them the better it does. `repaired_harm` is the
    same after the wanted repair, mean over its `repaired_trials`, where that was asked (`repaired_choice.py`).
    """

    proposed_by: tuple[str, ...]
    plan: Plan
    harm: float
    trials: int
    repaired_harm: float | None = None
    repaired_trials: int = 0


def propose(analysis: Analysis, target: Target, protected: set[int]) -> dict[tuple[str, ...], Plan]:
    """The different plans of all criteria, inside the segments and over the whole stack; keys name who proposed each.

    Raises `TargetUnreachable` where not even the whole stack has enough to remove.
    """
    whole = analysis.stack.stages
    plans: dict[Removed, Plan] = {}
    names: dict[Removed, list[str]] = {}
    for where, segments in (("stack", whole), ("segments", analysis.segmentation.segments)):
        costs = {n: costs_of_layers(segment_ranks(s.tolist(), segments)) for n, s in analysis.importance.items()}
        costs |= {f"{name}_of_runs": matrix for name, matrix in analysis.run_importance.items()}
        for name, matrix in costs.items():
            try:
                found = plan_keeping_kinds(analysis.stack, target, matrix, segments, protected)
            except TargetUnreachable:
                if segments == whole:
                    raise
                # Keeping a layer of every segment leaves too little; the whole stack's proposals remain.
                break
            plans.setdefault(found.removed_layers, found)
            names.setdefault(found.removed_layers, []).append(f"{name}/{where}")
    anywhere = next(iter(plans.values()))
    single = _single_cuts(analysis, target, protected)
    for name, matrix in ({"similarity": _apart(analysis)} | analysis.run_importance).items():
        for run in sorted(single, key=lambda run: (matrix[run], run))[:CUTS_PER_MEASURE]:
            removed = tuple(run.layers)
            plans.setdefault(removed, replace(anywhere, removed_layers=removed, achieved=single[run]))
            names.setdefault(removed, []).append(f"{name}/single_cut")
    return {tuple(names[removed]): found for removed, found in plans.items()}


def _single_cuts(analysis: Analysis, target: Target, protected: set[int]) -> dict[Run, float]:
    """From each layer on the shortest run that is large enough, with the fraction of the whole that it removes."""
    stack = analysis.stack
    sizes, total = stack.sizes(target.kind)
    needed = target.ratio * total * SLACK
    found = {}
    for start in range(1, len(sizes)):
        for end in range(start + 1, len(sizes) + 1):
            run = Run(start, end)
            removed = tuple(run.layers)
            if protected & set(removed):
                break
            if sum(sizes[start:end]) >= needed and stack.can_remove(removed):
                found[run] = sum(sizes[start:end]) / total
                break
    return found


def _apart(analysis: Analysis) -> np.ndarray:
    """`[L + 1, L + 1]`: at `[i, j]` how unlike the stream is before layer i and after layer j − 1.

    Where it is alike one linear map nearly makes the one from the other, which is what a repair needs.
    """
    apart = np.full((len(analysis.stack) + 1,) * 2, np.inf)
    apart[1:, 1:] = 1 - analysis.similarity
    return apart


def select(judge: Judge, plans: Mapping[tuple[str, ...], Plan]) -> list[Proposal]:
    """The proposals, best first; the better one does, the more it was tried."""
    best = judge.best([p.removed_layers for p in plans.values()])
    found = [_judged(judge, names, p) for names, p in plans.items()]
    return sorted(found, key=lambda p: (p.plan.removed_layers != best, -p.trials, p.harm))


def refined_proposal(
    judge: Judge, best: Proposal, analysis: Analysis, target: Target, protected: set[int], budget: int
) -> Proposal:
    """The best proposal with layers swapped where the model says that this harms it less."""
    sizes, total = analysis.stack.sizes(target.kind)
    needed = target.ratio * total * SLACK
    found = refine(
        judge,
        best.plan.removed_layers,
        [layer for layer in range(len(sizes)) if layer not in protected],
        lambda removed: sum(sizes[layer] for layer in removed) >= needed and analysis.stack.can_remove(removed),
        budget,
    )
    achieved = sum(sizes[layer] for layer in found) / total
    changed = found != best.plan.removed_layers
    names = tuple(f"{name}, refined" for name in best.proposed_by) if changed else best.proposed_by
    return _judged(judge, names, replace(best.plan, removed_layers=found, achieved=achieved))


def _judged(judge: Judge, names: tuple[str, ...], plan: Plan) -> Proposal:
    return Proposal(names, plan, judge.mean(plan.removed_layers), judge.trials[plan.removed_layers])
