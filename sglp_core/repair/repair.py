"""Fold what the removed layers did into weights that stay, without training, and keep only what held-out data approves.

A repair is one walk over the layers, for any number of plans at once. Where the walk comes to the end of a cut, every
possible repair is fitted to the stream of the dense model there, on most of the calibration windows. The one with the
least error of the stream on the others is taken, and the walk goes on with its weights, so that later cuts see them. At
the exit, all of a plan's repairs together are kept only if there the divergence from the dense model falls, and the
loss does not rise by as much.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sglp_core.evaluation.quality import Quality
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.weight_changes import Changes
from sglp_core.progress import Phase, silent_phase
from sglp_core.repair import REPAIRS
from sglp_core.repair.contract import Attempt, HeldOutQuality, ModelRepair
from sglp_core.repair.named_repairs import combination_name, combinations, reason_against, repair_at_once
from sglp_core.repair.plan_in_walk import Request
from sglp_core.repair.walk import RepairWalk
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Removed, Run, runs_of
from sglp_core.tasks import Batch, sample_count, split


@dataclass(frozen=True)
class Repaired:
    """The weights to change, and every attempt with how it went.

    `quality` is that on the judged windows, without and with all repairs; None where nothing was judged.
    """

    changes: Changes
    attempts: tuple[Attempt, ...]
    fitted_windows: int
    judged_windows: int
    quality: HeldOutQuality | None = None


def repair(
    model: LayeredModel,
    batches: Sequence[Batch],
    removed: Sequence[int],
    name: str,
    progress: Phase | None = None,
    finder: WriteFinder | None = None,
) -> Repaired:
    """The repair of this `name` for the dense `model` without the layers `removed`; nothing is changed yet.

    A model with batch norms has their statistics re-estimated with `auto`, once for all cuts. `finder` is one for this
    model, where there is one already.
    """
    return repair_plans(model, batches, [tuple(removed)], name, progress, finder)[0]


def repair_plans(
    model: LayeredModel,
    batches: Sequence[Batch],
    plans: Sequence[Removed],
    name: str,
    progress: Phase | None = None,
    finder: WriteFinder | None = None,
) -> list[Repaired]:
    """The repairs of several sets of removed layers, which are fitted and judged in one walk. See `repair`."""
    if name == "none":
        return [Repaired({}, (), 0, 0) for _ in plans]
    fitted, judged = split(batches)
    if not fitted:
        reason = "one sample of calibration data cannot be both fitted and judged on"
        return [_refused(runs_of(removed), name, reason) for removed in plans]
    windows = (sample_count(fitted), sample_count(judged))
    at_once = REPAIRS.get(repair_at_once(model, name) or "")
    if isinstance(at_once, ModelRepair):
        results = [at_once.repair(model, removed, fitted, judged) for removed in plans]
        return [Repaired(c if a.accepted else {}, (a,), *windows, quality) for c, a, quality in results]
    reason_not = reason_against(model, name)
    if reason_not is not None:
        return [_refused(runs_of(removed), name, reason_not) for removed in plans]
    finder = finder or WriteFinder(model, fitted[0])
    held_out = frozenset(range(len(fitted), len(fitted) + len(judged)))
    walk = RepairWalk(finder, [*fitted, *judged], [Request(removed, held_out) for removed in plans], combinations(name))
    return [
        _kept(changes, attempts, quality, windows)
        for changes, attempts, quality in walk.run(progress or silent_phase(), judges_unrepaired=True)
    ]


def _kept(changes: Changes, attempts: Sequence[Attempt], quality: HeldOutQuality, windows: tuple[int, int]) -> Repaired:
    """All repairs of a plan where they help together, or none."""
    assert quality.before is not None
    if not changes:
        return Repaired({}, tuple(attempts), *windows, quality)
    falls = _harm(quality.after, quality.dense) < _harm(quality.before, quality.dense)
    if falls and quality.after.kl < quality.before.kl:
        return Repaired(changes, tuple(attempts), *windows, quality)
    reason = "all repairs together: held-out divergence does not fall, or loss rises by more than it falls"
    dropped = tuple(attempt.dropped(reason) if attempt.accepted else attempt for attempt in attempts)
    return Repaired({}, dropped, *windows, quality)


def _harm(quality: Quality, dense: Quality) -> float:
    """KL plus the rise of the loss. Below the dense model's loss, less of it is chance and no sign of quality."""
    return quality.kl + max(0.0, math.log(quality.perplexity / dense.perplexity))


def _refused(runs: Sequence[Run], name: str, reason: str) -> Repaired:
    tried = [combination_name(each) for each in combinations(name)]
    attempts = tuple(Attempt(run, each, False, reason, built=False) for run in runs for each in tried)
    return Repaired({}, attempts, 0, 0)
