"""From an analysis to the plan of a job, and to the controls it is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass

from sglp_core.analysis.criteria import CONTROLS
from sglp_core.analysis.result import Analysis
from sglp_core.options import PROPOSALS, Options, Target
from sglp_core.planning.choose_after_repair import choose_repaired, repair_passes
from sglp_core.planning.harm import HarmMeter
from sglp_core.planning.layer_kinds import plan_keeping_kinds
from sglp_core.planning.plan import Plan, costs_of_layers, segment_ranks
from sglp_core.planning.planning_run import PlanningRun
from sglp_core.planning.proposals import Proposal, propose, refined_proposal, select
from sglp_core.repair.named_repairs import folds, repair_at_once, scales
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch, sample_count

TRIALS_A_LAYER = 12
# A trial is this share of a pass over its window, at most (`python -m benchmarks.planning_cost`).
TRIAL_PASSES = 0.5
# Every plan is compared with the controls, and with the simplest criterion over the whole stack.
COMPARED = (*CONTROLS, "block_influence")


@dataclass(frozen=True)
class Choice:
    """A plan, and the `proposals` it was chosen from, best first; none where one criterion made the plan."""

    plan: Plan
    proposals: list[Proposal]


def choose_plan(
    finder: WriteFinder,
    analysis: Analysis,
    target: Target,
    options: Options,
    batches: Sequence[Batch],
    run: PlanningRun = PlanningRun(),
) -> Choice:
    """The plan by the method's importance; with proposals and a repair, the one that harms least after its repair.

    `finder.layered` is the model; its writes are searched for only where a repair needs them. Raises
    `TargetUnreachable`.
    """
    model, method = finder.layered, options.method
    request = PlanRequest(analysis, target, method.protected_in(len(analysis.stack)), options.calibration.seed)
    if method.importance != PROPOSALS:
        return Choice(request.plan(method.importance, analysis.segmentation.segments), [])
    proposed = propose(analysis, target, request.protected)
    # A repair cannot be fitted and judged on the same sample.
    repairs = folds(model, method.repair) and sample_count(batches) > 1
    meter = HarmMeter(
        model,
        batches,
        run,
        keeps_length=repairs and scales(method.repair) and finder.undoes_factors(),
        reestimate_batch_norms=repair_at_once(model, method.repair) == "batch_norm",
    )
    largest = max(len(each.removed_layers) for each in proposed.values())
    spared = repair_passes(batches, model.task) if repairs else 0.0
    budget = search_budget(len(analysis.stack), largest, meter.parts, spared)
    run.progress.start(budget, "trials")
    proposals = select(meter, proposed)
    refined = refined_proposal(meter, proposals[0], analysis, target, request.protected, budget)
    proposals = [refined, *proposals]
    if not repairs:
        return Choice(refined.plan, proposals)
    proposals = choose_repaired(finder, batches, method.repair, proposals, run)
    return Choice(proposals[0].plan, proposals)


def search_budget(layers: int, removed: int, parts: int, spared: float) -> int:
    """How many trials may be spent on comparing plans: enough for some rounds of local search.

    With the repairs, for which as many passes over all parts are `spared`, they cost at most a tenth of greedy removal,
    which tries all remaining layers before each removal. The proposals are compared even if that leaves no trial.
    """
    greedy = sum((layers - done) * (layers - done - 1) / layers for done in range(removed))
    return max(0, min(TRIALS_A_LAYER * layers, int((greedy / 10 - spared) * parts / TRIAL_PASSES)))


def control_plans(analysis: Analysis, count: int, options: Options) -> dict[str, Plan]:
    """The plans that a report compares with: as many layers, chosen without segments over whole stages."""
    target = Target("layers", count / len(analysis.stack))
    protected = options.method.protected_in(len(analysis.stack))
    seed = options.calibration.seed
    plans = {}
    for name in COMPARED:
        control = CONTROLS.get(name)
        keeps = protected if control is None or control.protects else set()
        plans[name] = PlanRequest(analysis, target, keeps, seed).plan(name, analysis.stack.stages)
    return plans


@dataclass(frozen=True)
class PlanRequest:
    """The target of a plan, the analysis it is made from, and the layers that must stay."""

    analysis: Analysis
    target: Target
    protected: set[int]
    seed: int

    def plan(self, criterion: str, segments: Sequence[Run]) -> Plan:
        """The plan of one criterion inside the segments. Raises `TargetUnreachable`."""
        ranks = segment_ranks(self.analysis.scores(criterion, self.seed).tolist(), segments)
        return plan_keeping_kinds(self.analysis.stack, self.target, costs_of_layers(ranks), segments, self.protected)
