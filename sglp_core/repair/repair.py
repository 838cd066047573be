"""Fold what the removed layers did into weights that stay, without training, and keep only what held-out data approves.

The cuts are repaired in order, earlier repairs in place; what the dense model does at each cut is what is aimed at.
Every repair is fitted on most of the calibration windows and judged on the rest: it is kept only if there
the divergence from the dense model falls and the loss does not rise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Repair
from sglp_core.progress import Phase, silent_phase
from sglp_core.removal.weight_changes import Changes
from sglp_core.repair.batch_norm import has_batch_norms, repair_batch_norms
from sglp_core.repair.cut import Cut, Judged
from sglp_core.repair.result import Attempt
from sglp_core.repair.write_finder import Forms
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.structure.runs import Run, runs_of
from sglp_core.tasks import Batch, sample_count, split

KINDS: dict[str, tuple[str, ...]] = {
    "compensate": ("compensate",),
    "least_squares": ("least_squares",),
    "refit": ("refit",),
    "batch_norm": ("batch_norm",),
    "auto": ("compensate", "least_squares", "refit", "compensate + least_squares", "compensate + refit"),
}


@dataclass(frozen=True)
class Repaired:
    """The weights to change, and every attempt with how it went.

    `judged` is what the judged windows say of the model with all of it; None where nothing was folded cut by cut.
    """

    changes: Changes
    attempts: tuple[Attempt, ...]
    fitted_windows: int
    judged_windows: int
    judged: Judged | None = None


def repair(
    model: LayeredModel,
    batches: Sequence[Batch],
    removed: Sequence[int],
    kind: Repair,
    progress: Phase | None = None,
    forms: Forms | None = None,
) -> Repaired:
    """Repair the dense `model` as it is with the layers `removed`; nothing is changed yet.

    With `auto` each folded repair is tried at every cut, and `compensate` together with each of the others (which then
    aim at the stream without its growth); the one with the least held-out KL is kept. A model with batch norms has
    their statistics re-estimated instead, once for all cuts. `forms` are those of this model, where they are known.
    """
    if kind == "none":
        return Repaired({}, (), 0, 0)
    runs = runs_of(removed)
    if isinstance(model.model, StreamedModel):
        return _refused(runs, kind, "the model does not fit in memory")
    fitted, judged = split(batches)
    reason = None
    if not fitted:
        reason = "one sample of calibration data cannot be both fitted and judged on"
    elif kind == "batch_norm" and not has_batch_norms(model.model):
        reason = "the model has no batch norms"
    elif estimates_batch_norms(model, kind):
        changes, attempt = repair_batch_norms(model, removed, fitted, judged)
        return Repaired(changes if attempt.accepted else {}, (attempt,), sample_count(fitted), sample_count(judged))
    elif not isinstance(model.path, str):
        reason = "layers that stand in stages do not write to one residual stream"
    if reason is not None:
        return _refused(runs, kind, reason)
    progress = progress or silent_phase()
    progress.start(len(runs), "cuts")
    forms = forms or Forms(model, fitted[0])
    folded: dict[str, Tensor] = {}
    attempts: list[Attempt] = []
    # The pruned stream is this many times smaller than the dense one, by the factors that were folded so far.
    grown = 1.0
    so_far: Judged | None = None
    for run in runs:
        cut = Cut(forms, tuple(removed), run, dict(folded), grown)
        built, refused = cut.build(KINDS[kind], fitted, judged)
        judgements, so_far = cut.judge(built, judged, so_far)
        for attempt in judgements:
            if attempt.accepted:
                folded |= built[attempt.kind].changes
                grown *= built[attempt.kind].shrinks
        attempts += refused + judgements
        progress.advance()
    return Repaired(folded, tuple(attempts), sample_count(fitted), sample_count(judged), so_far)


def folds(model: LayeredModel, kind: Repair) -> bool:
    """Whether this repair of this model goes cut by cut into weights that stay."""
    possible = isinstance(model.path, str) and not isinstance(model.model, StreamedModel)
    return possible and kind not in {"none", "batch_norm"} and not estimates_batch_norms(model, kind)


def estimates_batch_norms(model: LayeredModel, kind: Repair) -> bool:
    """Whether this repair of this model is new statistics for its batch norms."""
    in_memory = not isinstance(model.model, StreamedModel)
    return kind in {"batch_norm", "auto"} and in_memory and has_batch_norms(model.model)


def _refused(runs: Sequence[Run], kind: Repair, reason: str | None) -> Repaired:
    return Repaired({}, tuple(Attempt(run, name, False, reason) for run in runs for name in KINDS[kind]), 0, 0)
