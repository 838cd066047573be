"""From an analysis to the plan of a job, and to the controls it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglp_core.analysis.result import Analysis
from sglp_core.loading.loaded_model import Opened
from sglp_core.options import PROPOSALS, Method, Target
from sglp_core.planning.choose_after_repair import choose_repaired
from sglp_core.planning.harm import Judge
from sglp_core.planning.layer_kinds import plan_keeping_kinds
from sglp_core.planning.plan import Plan, costs_of_layers, segment_ranks
from sglp_core.planning.proposals import Proposal, propose, refined_proposal, select
from sglp_core.repair.repair import Repaired, estimates_batch_norms, folds
from sglp_core.structure.layer_stack import layers_of
from sglp_core.tasks import Batch, windows

# In forward passes over the calibration data: one forward, and a backward that costs two.
ANALYSIS_PASSES = 3
TRIALS_A_LAYER = 10
CONTROLS = ("last_layers", "random", "block_influence")


@dataclass(frozen=True)
class Choice:
    """A plan, the `proposals` it was chosen from, best first (none for one criterion), and its repair where choosing
    among the repaired has already made it.
    """

    plan: Plan
    proposals: list[Proposal]
    repaired: Repaired | None = None


def choose_plan(
    opened: Opened,
    analysis: Analysis,
    target: Target,
    method: Method,
    batches: Sequence[Batch],
    seed: int,
    tell: Callable[[int, int, str], None],
) -> Choice:
    """The plan by the wanted importance; where it will be repaired, the one that harms least after that.

    Raises `TargetUnreachable`.
    """
    protected = method.protected_in(len(analysis.stack))
    if method.importance != PROPOSALS:
        return Choice(
            _planned(analysis, target, method.importance, analysis.segmentation.segments, protected, seed), []
        )
    proposed = propose(analysis, target, protected)
    judge = Judge(
        opened.model,
        layers_of(opened.model, opened.stack.path),
        batches,
        opened.task,
        lambda spent: tell(spent, max(spent, budget), "trials"),
        estimated=estimates_batch_norms(opened.model, method.repair),
    )
    largest = max(len(each.removed_layers) for each in proposed.values())
    budget = search_budget(len(analysis.stack), largest, judge.parts)
    tell(0, budget, "trials")
    proposals = select(judge, proposed)
    refined = refined_proposal(judge, proposals[0], analysis, target, protected, budget)
    proposals = [refined, *proposals]
    # One sample cannot be both fitted and judged on.
    if not folds(opened.model, opened.stack.path, method.repair) or windows(batches) < 2:
        return Choice(refined.plan, proposals)
    proposals, repaired = choose_repaired(
        opened, batches, method.repair, proposals, lambda done, count: tell(done, count, "repairs")
    )
    return Choice(proposals[0].plan, proposals, repaired)


def search_budget(layers: int, removed: int, parts: int) -> int:
    """How many trials comparing plans may take: enough for some rounds of refining, and with the analysis no more than
    a tenth of what greedy removal would cost, which tries every layer that is left before each removal.
    """
    greedy = sum(layers - gone for gone in range(removed))
    return max(0, min(TRIALS_A_LAYER * layers, int((greedy / 10 - ANALYSIS_PASSES) * parts)))


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
