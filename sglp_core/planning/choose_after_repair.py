"""Which of the best plans harms the model least once it is repaired.

The order can turn around: what one long cut takes away is made up for better than what several short ones take, since
one map replaces all of it and its error is not fed into the next. So plans of a single cut are asked about too,
however much they harm before (docs/method/method.md has the figures).

A repair cannot be judged on what it was fitted on, and a quarter of few windows tells plans apart badly. Then the
better half is repaired and judged once more with another quarter held out, and so on. Of much calibration data a part
tells them apart as well, and what is chosen is then repaired with all of it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from sglp_core.evaluation.quality import evaluate
from sglp_core.options import Repair
from sglp_core.planning.harm import harm_of
from sglp_core.planning.proposals import Proposal
from sglp_core.progress import Phase, silent_phase
from sglp_core.removal.variant import Variant
from sglp_core.repair.cut import Judged
from sglp_core.repair.repair import Repaired, folds, repair
from sglp_core.repair.write_finder import Forms
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.structure.runs import Removed, runs_of
from sglp_core.tasks import IGNORED, JUDGED_SHARE, Batch, rebatch, sample_count, split

BEST = 3
# On how many windows at least the last two are judged, as far as there are as many.
JUDGED_WINDOWS = 8
# And on how many predictions plans are told apart at most, fitting included: 8 windows of 256 tokens.
MOST_PREDICTIONS = 2048


def finalists(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The best proposals, and those with a single cut; `proposals` are in order, best first."""
    different = list({proposal.plan.removed_layers: proposal for proposal in reversed(proposals)}.values())[::-1]
    return different[:BEST] + [each for each in different[BEST:] if len(runs_of(each.plan.removed_layers)) == 1]


def choose_repaired(
    model: LayeredModel,
    batches: Sequence[Batch],
    kind: Repair,
    proposals: Sequence[Proposal],
    progress: Phase | None = None,
) -> tuple[list[Proposal], Repaired]:
    """The proposals with the one that harms least after its repair first, and its repair, fitted on all batches.

    Those that were repaired say how they did, the mean over the quarters of the batches that were held out in turn.
    """
    candidates = {each.plan.removed_layers: each for each in finalists(proposals)}
    harms: dict[Removed, list[float]] = {removed: [] for removed in candidates}
    order = list(candidates)
    few = _first(batches, MOST_PREDICTIONS)
    # Found once and not for each candidate.
    forms = Forms(model, few[0]) if folds(model, kind) else None
    rounds = _rounds(len(candidates), sample_count(split(few)[1]))
    # Only the best repair of the first turn is held: each has copies of many weights.
    kept, kept_for, least = Repaired({}, (), 0, 0), order[0], math.inf
    progress = progress or silent_phase()
    progress.start(sum(rounds), "repairs")
    for turn, count in enumerate(rounds):
        turned = _turned(few, turn)
        _, judged = split(turned)
        for removed in order[:count]:
            repaired = repair(model, turned, removed, kind, forms=forms)
            found = repaired.judged
            if found is None:
                quality = evaluate(model, judged, {"repaired": Variant(removed, repaired.changes)})
                found = Judged(quality["dense"], quality["repaired"])
            harm = harm_of(found.dense, found.pruned)
            harms[removed].append(harm)
            if turn == 0 and harm <= least:
                kept, kept_for, least = repaired, removed, harm
            progress.advance()
        order.sort(key=lambda each: (-len(harms[each]), fmean(harms[each])))
    if kept_for != order[0] or sample_count(few) < sample_count(batches):
        kept = repair(model, batches, order[0], kind, forms=forms)
    asked = [
        replace(candidates[each], repaired_harm=fmean(harms[each]), repaired_trials=len(harms[each])) for each in order
    ]
    return [*asked, *(each for each in proposals if each.plan.removed_layers not in candidates)], kept


def _rounds(candidates: int, judged: int) -> list[int]:
    """How many are repaired in each turn, where one turn judges on so many windows."""
    rounds = [candidates]
    while rounds[-1] > 1 and len(rounds) < JUDGED_SHARE and len(rounds) * judged < JUDGED_WINDOWS:
        rounds.append(max(2, -(-rounds[-1] // 2)))
    return rounds


def _first(batches: Sequence[Batch], most: int) -> list[Batch]:
    """The first windows with so many predictions together; at least as many windows as judge in the end."""
    few: list[Batch] = []
    rows = (row for batch in batches for row in batch.split(1))
    predictions = 0
    for row in rows:
        if predictions >= most and len(few) >= JUDGED_WINDOWS:
            break
        few.append(row)
        predictions += int((row.labels != IGNORED).sum())
    return list(rebatch(few, len(batches[0].labels)))


def _turned(batches: Sequence[Batch], turn: int) -> Sequence[Batch]:
    """The same windows with another quarter of them last, which is what `split` holds out."""
    for _ in range(turn):
        fitted, judged = split(batches)
        batches = [*judged, *fitted]
    return batches
