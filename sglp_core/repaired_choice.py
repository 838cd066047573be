"""Which of the best plans harms the model least once it is repaired.

The order can turn around: what one long cut takes away is made up for better than what several short ones take, since
one map replaces all of it and its error is not fed into the next. So plans of a single cut are asked about too,
however much they harm before (docs/method.md has the figures).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from sglp_core.evaluation import evaluate
from sglp_core.judging import harm_of
from sglp_core.layers import layers_of
from sglp_core.objectives import Batch
from sglp_core.opening import Opened
from sglp_core.proposals import Proposal
from sglp_core.repair import Repair, Repaired, repair, runs_of, split

BEST = 2
SINGLE_CUTS = 5


def finalists(proposals: Sequence[Proposal]) -> list[Proposal]:
    """The best proposals, and the best of those with a single cut; `proposals` are in order, best first."""
    different = list({proposal.plan.removed_layers: proposal for proposal in reversed(proposals)}.values())[::-1]
    single = [each for each in different[BEST:] if len(runs_of(each.plan.removed_layers)) == 1]
    return different[:BEST] + sorted(single, key=lambda each: each.harm)[:SINGLE_CUTS]


def choose_repaired(
    opened: Opened,
    batches: Sequence[Batch],
    kind: Repair,
    proposals: Sequence[Proposal],
    on_repair: Callable[[int, int], None],
) -> tuple[list[Proposal], Repaired]:
    """The proposals with the one that harms least after its repair first, and that repair.

    Judged on the quarter of the batches that no repair is fitted on; proposals that were repaired say how they did.
    """
    layers = layers_of(opened.model, opened.stack.path)
    _, judged = split(batches)
    candidates = finalists(proposals)
    found: list[tuple[Proposal, Repaired]] = []
    on_repair(0, len(candidates))
    for number, proposal in enumerate(candidates, 1):
        removed = proposal.plan.removed_layers
        repaired = repair(opened.model, opened.stack.path, batches, opened.task, removed, kind)
        quality = evaluate(opened.model, layers, judged, opened.task, {"it": removed}, weights={"it": repaired.changes})
        found.append((replace(proposal, repaired_harm=harm_of(quality["dense"], quality["it"])), repaired))
        on_repair(number, len(candidates))
        # Only the best repair so far is held: each has copies of many weights.
        found.sort(key=lambda pair: pair[0].repaired_harm if pair[0].repaired_harm is not None else math.inf)
        found[1:] = [(each, Repaired({}, (), 0, 0)) for each, _ in found[1:]]
    (best, kept), others = found[0], [each for each, _ in found[1:]]
    asked = {each.plan.removed_layers for each in candidates}
    return [best, *others, *(each for each in proposals if each.plan.removed_layers not in asked)], kept
