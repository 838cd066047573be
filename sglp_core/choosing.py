"""From an analysis to the plan of a job, and to the controls it is compared with."""

from collections.abc import Callable, Sequence

from sglp_core.analysis import Analysis
from sglp_core.judging import Judge
from sglp_core.kinds import plan_keeping_kinds
from sglp_core.layers import layers_of
from sglp_core.method import PROPOSALS, Method
from sglp_core.objectives import Batch
from sglp_core.opening import Opened
from sglp_core.planning import Plan, costs_of_layers, segment_ranks
from sglp_core.proposals import Proposal, propose, refined_proposal, select
from sglp_core.target import Target

# Forward passes over the calibration data that comparing plans may take; measuring takes about three.
SEARCH_PASSES = 5
CONTROLS = ("last_layers", "random", "block_influence")


def choose_plan(
    opened: Opened,
    analysis: Analysis,
    target: Target,
    method: Method,
    batches: Sequence[Batch],
    seed: int,
    tell: Callable[[int, int, str], None],
) -> tuple[Plan, list[Proposal]]:
    """The plan by the wanted importance, and the proposals it was chosen from, best first (none for one criterion).

    Raises `TargetUnreachable`.
    """
    protected = method.protected_in(len(analysis.stack))
    if method.importance != PROPOSALS:
        return _planned(analysis, target, method.importance, analysis.segmentation.segments, protected, seed), []
    proposed = propose(analysis, target, protected)
    judge = Judge(
        opened.model,
        layers_of(opened.model, opened.stack.path),
        batches,
        opened.task,
        SEARCH_PASSES,
        lambda spent: tell(min(spent, judge.budget), judge.budget, "trials"),
    )
    tell(0, judge.budget, "trials")
    proposals = select(judge, proposed)
    refined = refined_proposal(judge, proposals[0], analysis, target, protected)
    tell(judge.budget, judge.budget, "trials")
    return refined.plan, [refined, *proposals]


def control_plans(analysis: Analysis, count: int, method: Method, seed: int) -> dict[str, Plan]:
    """The controls: as many layers, chosen without segments over whole stages."""
    whole = analysis.stack.stages
    protected = method.protected_in(len(analysis.stack))
    target = Target("layers", count / len(analysis.stack))
    return {
        name: _planned(analysis, target, name, whole, set() if name == "last_layers" else protected, seed)
        for name in CONTROLS
    }


def _planned(
    analysis: Analysis,
    target: Target,
    criterion: str,
    segments: Sequence[tuple[int, int]],
    protected: set[int],
    seed: int,
) -> Plan:
    ranks = segment_ranks(analysis.scores(criterion, seed).tolist(), segments)
    return plan_keeping_kinds(analysis.stack, target, costs_of_layers(ranks), segments, protected)
