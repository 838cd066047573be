"""Choose the plan that harms the model least after its repair, among the best plans.

Repair can change their order. One long cut is repaired better than several short ones: a single map replaces all of
it, and its error does not enter another map. So all plans with a single cut are candidates too, however much they harm
before repair (docs/method/method.md has the figures).

A repair is judged on samples that it was not fitted on, the last quarter of the windows, and all plans are repaired in
one walk over the layers. With much calibration data a part is enough to rank plans; the chosen plan is then repaired
with all of it.
"""

from collections.abc import Sequence
from dataclasses import replace

from sglp_core.planning.harm import harm_of
from sglp_core.planning.planning_run import PlanningRun
from sglp_core.planning.proposals import Proposal
from sglp_core.repair.named_repairs import combinations
from sglp_core.repair.plan_in_walk import Request
from sglp_core.repair.walk import RepairWalk
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import runs_of
from sglp_core.tasks import Batch, Task, predictions, rebatch, sample_count, split

BEST = 3
# Plans are compared on at most this many predictions, fitting included: 8 windows of 256 tokens. But there are at least
# so many windows, if there are as many.
MOST_PREDICTIONS = 2048
FEWEST_WINDOWS = 8
# In forward passes over the windows: the repairs of all plans that are compared, and that of the chosen plan
# (`python -m benchmarks.planning_cost`).
COMPARED_PASSES, CHOSEN_PASSES = 4.5, 2.0


def finalists(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The best proposals, and the best of the others that have a single cut; `proposals` are sorted, best first."""
    different = list({proposal.plan.removed_layers: proposal for proposal in reversed(proposals)}.values())[::-1]
    single_cuts = [each for each in different[BEST:] if len(runs_of(each.plan.removed_layers)) == 1]
    return different[:BEST] + single_cuts[:BEST]


def choose_repaired(
    finder: WriteFinder,
    batches: Sequence[Batch],
    repair_name: str,
    proposals: Sequence[Proposal],
    run: PlanningRun = PlanningRun(),
) -> list[Proposal]:
    """The proposals, first the one that harms least after its repair.

    `repaired_harm` of those that were repaired is that on the judged windows.
    """
    candidates = {each.plan.removed_layers: each for each in finalists(proposals)}

    def repaired_harms() -> list[float]:
        fitted, judged = split(_first_windows(batches, finder.layered.task))
        held_out = frozenset(range(len(fitted), len(fitted) + len(judged)))
        requests = [Request(removed, held_out) for removed in candidates]
        walk = RepairWalk(finder, [*fitted, *judged], requests, combinations(repair_name), tunes=False)
        qualities = [quality for _, _, quality in walk.run(run.progress, judges_unrepaired=False)]
        return [harm_of(quality.dense, quality.after) for quality in qualities]

    found = run.journal.step("harm after repair", list(candidates), repaired_harms)
    harms = dict(zip(candidates, found, strict=True))
    ranked = sorted(candidates, key=lambda removed: harms[removed])
    repaired_proposals = [replace(candidates[each], repaired_harm=harms[each]) for each in ranked]
    return [*repaired_proposals, *(each for each in proposals if each.plan.removed_layers not in candidates)]


def repair_passes(batches: Sequence[Batch], task: Task) -> float:
    """About how many forward passes over all batches `choose_repaired` and then the chosen plan's repair take."""
    return CHOSEN_PASSES + COMPARED_PASSES * sample_count(_first_windows(batches, task)) / sample_count(batches)


def _first_windows(batches: Sequence[Batch], task: Task) -> list[Batch]:
    """The first windows, with at least `MOST_PREDICTIONS` and at least `FEWEST_WINDOWS`, in batches as large."""
    few: list[Batch] = []
    count = 0
    for row in (row for batch in batches for row in batch.split(1)):
        if count >= MOST_PREDICTIONS and len(few) >= FEWEST_WINDOWS:
            break
        few.append(row)
        # The first token of a window, which a causal model does not predict, counts too.
        count += predictions(row.labels, task) + (task == "causal_lm")
    return list(rebatch(few, len(batches[0].labels)))
