"""Choose the plan that harms the model least after its repair, among the best plans.

Repair can change their order. One long cut is repaired better than several short ones: a single map replaces all of
it, and its error does not enter another map. So all plans with a single cut are candidates too, however much they harm
before repair (docs/method/method.md has the figures).

A repair is judged on samples that it was not fitted on, a quarter of them. A quarter of few windows ranks plans badly,
so the better half of the plans is then repaired and judged again with another quarter held out, and so on. With much
calibration data a part is enough to rank plans; the chosen plan is then repaired with all of it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.planning.harm import harm_of
from sglp_core.planning.proposals import Proposal
from sglp_core.progress import Phase, silent_phase
from sglp_core.repair.candidates import HeldOutQuality
from sglp_core.repair.named_repairs import folds
from sglp_core.repair.repair import Repaired, repair
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Removed, runs_of
from sglp_core.tasks import IGNORED, JUDGED_SHARE, Batch, rebatch, sample_count, split

BEST = 3
# The last two candidates are judged on at least this many windows, if there are as many.
JUDGED_WINDOWS = 8
# Plans are compared on at most this many predictions, fitting included: 8 windows of 256 tokens.
MOST_PREDICTIONS = 2048


def finalists(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The best proposals and all with a single cut; `proposals` are sorted, best first."""
    different = list({proposal.plan.removed_layers: proposal for proposal in reversed(proposals)}.values())[::-1]
    return different[:BEST] + [each for each in different[BEST:] if len(runs_of(each.plan.removed_layers)) == 1]


def choose_repaired(
    model: LayeredModel,
    batches: Sequence[Batch],
    repair_name: str,
    proposals: Sequence[Proposal],
    progress: Phase | None = None,
) -> tuple[list[Proposal], Repaired]:
    """The proposals, first the one that harms least after its repair, and its repair, fitted on all batches.

    `repaired_harm` of those that were repaired is the mean over the quarters of the batches that were held out.
    """
    candidates = {each.plan.removed_layers: each for each in finalists(proposals)}
    harms: dict[Removed, list[float]] = {removed: [] for removed in candidates}
    order = list(candidates)
    few = _first(batches, MOST_PREDICTIONS)
    # One finder, so that the writes of a layer are searched for once and not for each candidate.
    finder = WriteFinder(model, few[0]) if folds(model, repair_name) else None
    counts = _candidates_by_turn(len(candidates), sample_count(split(few)[1]))
    # Only the best repair of the first turn is kept: each has copies of many weights.
    kept, kept_for, least = Repaired({}, (), 0, 0), order[0], math.inf
    progress = progress or silent_phase()
    progress.start(sum(counts), "repairs")
    for turn, count in enumerate(counts):
        rotated = _rotated(few, turn)
        _, judged = split(rotated)
        for removed in order[:count]:
            repaired = repair(model, rotated, removed, repair_name, finder=finder)
            quality_after = repaired.quality
            if quality_after is None:
                quality = evaluate(model, judged, {"repaired": Variant(removed, repaired.changes)})
                quality_after = HeldOutQuality(quality["dense"], quality["repaired"])
            harm = harm_of(quality_after.dense, quality_after.pruned)
            harms[removed].append(harm)
            if turn == 0 and harm <= least:
                kept, kept_for, least = repaired, removed, harm
            progress.advance()
        order.sort(key=lambda each: (-len(harms[each]), fmean(harms[each])))
    if kept_for != order[0] or sample_count(few) < sample_count(batches):
        kept = repair(model, batches, order[0], repair_name, finder=finder)
    repaired_proposals = [
        replace(candidates[each], repaired_harm=fmean(harms[each]), repaired_trials=len(harms[each])) for each in order
    ]
    return [*repaired_proposals, *(each for each in proposals if each.plan.removed_layers not in candidates)], kept


def _candidates_by_turn(candidates: int, judged: int) -> list[int]:
    """How many candidates are repaired in each turn, where each turn judges on `judged` windows."""
    rounds = [candidates]
    while rounds[-1] > 1 and len(rounds) < JUDGED_SHARE and len(rounds) * judged < JUDGED_WINDOWS:
        rounds.append(max(2, -(-rounds[-1] // 2)))
    return rounds


def _first(batches: Sequence[Batch], most: int) -> list[Batch]:
    """The first windows with at least `most` predictions in all, and at least `JUDGED_WINDOWS` of them."""
    few: list[Batch] = []
    rows = (row for batch in batches for row in batch.split(1))
    predictions = 0
    for row in rows:
        if predictions >= most and len(few) >= JUDGED_WINDOWS:
            break
        few.append(row)
        predictions += int((row.labels != IGNORED).sum())
    return list(rebatch(few, len(batches[0].labels)))


def _rotated(batches: Sequence[Batch], turn: int) -> Sequence[Batch]:
    """The same windows in an order in which `split` holds out another quarter each turn."""
    for _ in range(turn):
        fitted, judged = split(batches)
        batches = [*judged, *fitted]
    return batches
