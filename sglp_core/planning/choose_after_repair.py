"""Choose the plan that harms the model least after its repair, among the best plans.

Repair can change their order. One long cut is repaired better than several short ones: a single map replaces all of
it, and its error does not enter another map. So all plans with a single cut are candidates too, however much they harm
before repair (docs/method/method.md has the figures).

A repair is judged on samples that it was not fitted on. The windows are divided into `FOLDS`; for each of them the
repair is fitted on the others and judged on it. All plans are compared on the first fold, and the best third of them on
two more. Each of these turns is one walk over the layers for all plans and folds. With much calibration data a part is
enough to rank plans; the chosen plan is then repaired with all of it.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from sglp_core.planning.harm import harm_of
from sglp_core.planning.proposals import Proposal
from sglp_core.progress import Phase, silent_phase
from sglp_core.repair.walk import RepairWalk, Request
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Removed, runs_of
from sglp_core.tasks import IGNORED, Batch, rebatch_evenly, sample_count

BEST = 3
FOLDS = 4
# Plans are compared on at most this many predictions, fitting included: 8 windows of 256 tokens. But there are at least
# so many windows, if there are as many.
MOST_PREDICTIONS = 2048
FEWEST_WINDOWS = 8


def finalists(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The best proposals and all with a single cut; `proposals` are sorted, best first."""
    different = list({proposal.plan.removed_layers: proposal for proposal in reversed(proposals)}.values())[::-1]
    return different[:BEST] + [each for each in different[BEST:] if len(runs_of(each.plan.removed_layers)) == 1]


def choose_repaired(
    finder: WriteFinder,
    batches: Sequence[Batch],
    repair_name: str,
    proposals: Sequence[Proposal],
    progress: Phase | None = None,
) -> list[Proposal]:
    """The proposals, first the one that harms least after its repair.

    `repaired_harm` of those that were repaired is the mean over the folds that were held out.
    """
    candidates = {each.plan.removed_layers: each for each in finalists(proposals)}
    harms: dict[Removed, list[float]] = {removed: [] for removed in candidates}
    order = list(candidates)
    folds = _folds(batches)
    progress = progress or silent_phase()
    for turn in (range(1), range(1, min(3, len(folds)))):
        requests = [Request(removed, frozenset({fold})) for removed in order for fold in turn]
        results = RepairWalk(finder, folds, requests, repair_name).run(progress, judges_unrepaired=False)
        for request, (_, _, quality) in zip(requests, results, strict=True):
            harms[request.removed].append(harm_of(quality.dense, quality.after))
        order.sort(key=lambda each: fmean(harms[each]))
        order = order[: max(2, -(-len(order) // 3))]
    ranked = sorted(candidates, key=lambda each: (-len(harms[each]), fmean(harms[each])))
    repaired_proposals = [
        replace(candidates[each], repaired_harm=fmean(harms[each]), repaired_trials=len(harms[each])) for each in ranked
    ]
    return [*repaired_proposals, *(each for each in proposals if each.plan.removed_layers not in candidates)]


def _folds(batches: Sequence[Batch]) -> list[Batch]:
    """The first windows, with at least `MOST_PREDICTIONS` and at least `FEWEST_WINDOWS`, in at most `FOLDS` batches."""
    few: list[Batch] = []
    predictions = 0
    for row in (row for batch in batches for row in batch.split(1)):
        if predictions >= MOST_PREDICTIONS and len(few) >= FEWEST_WINDOWS:
            break
        few.append(row)
        predictions += int((row.labels != IGNORED).sum())
    return list(rebatch_evenly(few, -(-sample_count(few) // FOLDS)))
