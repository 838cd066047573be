"""Every criterion proposes a plan; the proposals are compared by how much they harm the model.

Scores of single layers miss how removals interact, and no criterion is best on every model. A proposal is cheap to
measure: the dense model with those layers bypassed against the dense model, on calibration data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sglp_core.analysis.result import Analysis
from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.planning.harm import HarmMeter
from sglp_core.planning.layer_kinds import plan_keeping_kinds
from sglp_core.planning.local_search import refine
from sglp_core.planning.plan import Plan, costs_of_layers, reaches, segment_ranks
from sglp_core.structure.runs import Removed, Run

# Plans with a single cut that each measure of runs proposes: similarity, and every criterion that also scores runs.
CUTS_PER_MEASURE = 3
# How many small parts of the calibration data each proposal is tried on.
PARTS = 2


@dataclass(frozen=True)
class Proposal:
    """One plan and the criteria that proposed it; `harm` is that of `harm.py`, mean over its `trials`.

    A refined plan has more trials than the others. `repaired_harm` is the harm after the method's repair; None where it
    was not repaired (`choose_after_repair.py`).
    """

    proposed_by: tuple[str, ...]
    plan: Plan
    harm: float
    trials: int
    repaired_harm: float | None = None


def propose(analysis: Analysis, target: Target, protected: set[int]) -> dict[tuple[str, ...], Plan]:
    """The different plans of all criteria, inside the segments and over the whole stack, by the names of the criteria.

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
                proposed = plan_keeping_kinds(analysis.stack, target, matrix, segments, protected)
            except TargetUnreachable:
                if segments == whole:
                    raise
                # Keeping a layer of every segment leaves too little; the whole stack's proposals remain.
                break
            plans.setdefault(proposed.removed_layers, proposed)
            names.setdefault(proposed.removed_layers, []).append(f"{name}/{where}")
    anywhere = next(iter(plans.values()))
    single = _single_cuts(analysis, target, protected)
    for name, matrix in ({"similarity": _dissimilarity_of_ends(analysis)} | analysis.run_importance).items():
        for run in sorted(single, key=lambda run: (matrix[run], run))[:CUTS_PER_MEASURE]:
            removed = tuple(run.layers)
            plans.setdefault(removed, replace(anywhere, removed_layers=removed, achieved=single[run]))
            names.setdefault(removed, []).append(f"{name}/single_cut")
    return {tuple(names[removed]): proposed for removed, proposed in plans.items()}


def _single_cuts(analysis: Analysis, target: Target, protected: set[int]) -> dict[Run, float]:
    """From each layer on the shortest run that is large enough, with the fraction of the whole that it removes."""
    stack = analysis.stack
    sizes, total = stack.sizes(target.kind)
    fractions = {}
    for start in range(1, len(sizes)):
        for end in range(start + 1, len(sizes) + 1):
            run = Run(start, end)
            removed = tuple(run.layers)
            if protected & set(removed):
                break
            if reaches(target, sum(sizes[start:end]), total) and stack.can_remove(removed):
                fractions[run] = sum(sizes[start:end]) / total
                break
    return fractions


def _dissimilarity_of_ends(analysis: Analysis) -> np.ndarray:
    """`[L + 1, L + 1]`: at `[i, j]` 1 − CKA of the hidden states before layer i and after layer j − 1.

    Where it is low, one linear map nearly makes the latter from the former, which is what a repair needs.
    """
    dissimilarity = np.full((len(analysis.stack) + 1,) * 2, np.inf)
    dissimilarity[1:, 1:] = 1 - analysis.similarity
    return dissimilarity


def select(meter: HarmMeter, plans: Mapping[tuple[str, ...], Plan]) -> list[Proposal]:
    """The proposals, best first, all tried on the same parts in one walk; equal ones stay in their order."""
    meter.each_part([plan.removed_layers for plan in plans.values()], PARTS)
    proposals = [_measured(meter, names, plan) for names, plan in plans.items()]
    return sorted(proposals, key=lambda proposal: proposal.harm)


def refined_proposal(
    meter: HarmMeter, best: Proposal, analysis: Analysis, target: Target, protected: set[int], budget: int
) -> Proposal:
    """The best proposal after a local search for a set of layers that harms the model less."""
    sizes, total = analysis.stack.sizes(target.kind)
    refined = refine(
        meter,
        best.plan.removed_layers,
        [layer for layer in range(len(sizes)) if layer not in protected],
        lambda removed: (
            reaches(target, sum(sizes[layer] for layer in removed), total) and analysis.stack.can_remove(removed)
        ),
        budget,
    )
    achieved = sum(sizes[layer] for layer in refined) / total
    changed = refined != best.plan.removed_layers
    names = tuple(f"{name}, refined" for name in best.proposed_by) if changed else best.proposed_by
    return _measured(meter, names, replace(best.plan, removed_layers=refined, achieved=achieved))


def _measured(meter: HarmMeter, names: tuple[str, ...], plan: Plan) -> Proposal:
    return Proposal(names, plan, meter.mean(plan.removed_layers), meter.trials[plan.removed_layers])
