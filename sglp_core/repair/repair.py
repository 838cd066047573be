"""Fold what the removed layers did into weights that stay, without training, and keep only what held-out data approves.

The cuts are repaired in order, with the earlier repairs in place; the target at each cut is the stream of the dense
model. Every repair is fitted on most of the calibration windows and judged on the rest: it is kept only if there
the divergence from the dense model falls and the loss does not rise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.weight_changes import Changes
from sglp_core.progress import Phase, silent_phase
from sglp_core.repair import REPAIRS
from sglp_core.repair.candidates import HeldOutQuality, build_candidates, judge
from sglp_core.repair.contract import Attempt, ModelRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.named_repairs import combination_name, combinations, reason_against, repair_at_once
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Run, runs_of
from sglp_core.tasks import Batch, sample_count, split


@dataclass(frozen=True)
class Repaired:
    """The weights to change, and every attempt with how it went.

    `quality` is that of the model with all of it on the judged windows; None where nothing was folded cut by cut.
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

    With `auto` every combination of repairs is tried at every cut, and the one with the least held-out KL is kept. A
    model with batch norms has their statistics re-estimated instead, once for all cuts. `finder` is one for this model,
    where there is one already.
    """
    if name == "none":
        return Repaired({}, (), 0, 0)
    runs = runs_of(removed)
    if not model.weights.resident:
        return _refused(runs, name, "the model does not fit in memory")
    fitted, judged = split(batches)
    if not fitted:
        return _refused(runs, name, "one sample of calibration data cannot be both fitted and judged on")
    at_once = REPAIRS.get(repair_at_once(model, name) or "")
    if isinstance(at_once, ModelRepair):
        changes, attempt = at_once.repair(model, removed, fitted, judged)
        return Repaired(changes if attempt.accepted else {}, (attempt,), sample_count(fitted), sample_count(judged))
    reason = reason_against(model, name)
    if reason is not None:
        return _refused(runs, name, reason)
    progress = progress or silent_phase()
    progress.start(len(runs), "cuts")
    finder = finder or WriteFinder(model, fitted[0])
    folded: dict[str, Tensor] = {}
    attempts: list[Attempt] = []
    shrinkage = 1.0
    quality: HeldOutQuality | None = None
    for run in runs:
        cut = Cut(finder, tuple(removed), run, dict(folded), shrinkage)
        candidates, refused = build_candidates(cut, combinations(name), fitted, judged)
        judgements, quality = judge(cut, candidates, judged, quality)
        for attempt in judgements:
            if attempt.accepted:
                folded |= candidates[attempt.repair].changes
                shrinkage *= candidates[attempt.repair].shrinkage
        attempts += refused + judgements
        progress.advance()
    return Repaired(folded, tuple(attempts), sample_count(fitted), sample_count(judged), quality)


def _refused(runs: Sequence[Run], name: str, reason: str) -> Repaired:
    tried = [combination_name(each) for each in combinations(name)]
    return Repaired({}, tuple(Attempt(run, each, False, reason) for run in runs for each in tried), 0, 0)
