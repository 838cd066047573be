"""The candidates for one cut: fit each repair and each combination, and judge all of them on held-out data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.contract import Attempt, Candidate, CutFit, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.named_repairs import Combination, combination_name, cut_repairs
from sglp_core.repair.residual_writes import CannotFold
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class HeldOutQuality:
    """The quality on the same windows of the dense model, and of the pruned one as far as it is repaired."""

    dense: Quality
    pruned: Quality


def build_candidates(
    cut: Cut,
    combinations: Sequence[Combination],
    fitted: Sequence[Batch],
    held_out: Sequence[Batch],
) -> tuple[dict[str, Candidate], list[Attempt]]:
    """A candidate of every combination by its name, and a refused attempt of each that is not possible here.

    Fits that are settled on held-out data also take in `held_out`.
    """
    names = {name for combination in combinations for name in combination}
    repairs = {name: row for name, row in cut_repairs().items() if name in names}
    fits: dict[str, CutFit | CannotFold] = {name: _fit(row, cut) for name, row in repairs.items()}
    settled = {name: fit for name, fit in fits.items() if repairs[name].uses_held_out}
    try:
        _measure(cut, fits, fitted, held_out=False)
        if any(not isinstance(fit, CannotFold) for fit in settled.values()):
            _measure(cut, settled, held_out, held_out=True)
    except CannotFold as reason:
        return {}, [Attempt(cut.run, combination_name(each), False, str(reason)) for each in combinations]
    candidates: dict[Combination, Candidate] = {}
    refused: list[Attempt] = []
    for combination in combinations:
        try:
            candidates[combination] = _build(cut, fits, combination, candidates)
        except (CannotFold, OverflowError, torch.linalg.LinAlgError) as reason:  # type: ignore[attr-defined]
            refused.append(Attempt(cut.run, combination_name(combination), False, str(reason)))
    return {combination_name(each): candidate for each, candidate in candidates.items()}, refused


def judge(
    cut: Cut, candidates: Mapping[str, Candidate], batches: Sequence[Batch], so_far: HeldOutQuality | None
) -> tuple[list[Attempt], HeldOutQuality | None]:
    """Accept the candidate with the least KL, if it makes KL less and loss no more than it is without it.

    Below the dense model's loss, less of it is chance and no sign of quality, so there KL decides alone. `so_far` is
    the quality on these batches with the cuts before this one repaired, where that was measured.
    """
    if not candidates:
        return [], so_far
    variants = {name: Variant(cut.removed, {**cut.changes, **each.changes}) for name, each in candidates.items()}
    if so_far is None:
        variants["before"] = cut.pruned
    quality = evaluate(cut.finder.layered, batches, variants)
    before = so_far.pruned if so_far else quality["before"]
    most = max(_loss(before), _loss(quality["dense"]))
    better = [name for name in candidates if quality[name].kl < before.kl and _loss(quality[name]) <= most]
    best = min(better, key=lambda name: quality[name].kl, default=None)
    attempts = []
    for name, candidate in candidates.items():
        reason = None
        if name not in better:
            reason = "held-out divergence does not fall, or loss rises"
        elif name != best:
            reason = f"{best} does better"
        attempts.append(
            Attempt(
                cut.run,
                name,
                name == best,
                reason,
                candidate.alpha,
                _loss(before),
                _loss(quality[name]),
                before.kl,
                quality[name].kl,
            )
        )
    return attempts, HeldOutQuality(quality["dense"], before if best is None else quality[best])


def _fit(repair: CutRepair, cut: Cut) -> CutFit | CannotFold:
    try:
        return repair.fit(cut)
    except CannotFold as reason:
        return reason


def _measure(cut: Cut, fits: Mapping[str, CutFit | CannotFold], batches: Sequence[Batch], *, held_out: bool) -> None:
    for batch in batches:
        # Also where nothing is fitted: streams that cannot be read at all are the first reason to report.
        streams = cut.streams(batch)
        for fit in fits.values():
            if not isinstance(fit, CannotFold):
                fit.add(batch, streams, held_out=held_out)


def _build(
    cut: Cut,
    fits: Mapping[str, CutFit | CannotFold],
    combination: Combination,
    built: Mapping[Combination, Candidate],
) -> Candidate:
    """The last repair of the combination, on top of the candidate that the others made."""
    *below, name = combination
    fit = fits[name]
    if isinstance(fit, CannotFold):
        raise CannotFold(str(fit))
    base = built.get(tuple(below)) if below else Candidate({})
    if base is None:
        raise CannotFold(f"{combination_name(tuple(below))} cannot be folded here")
    if base.changes and cut.writes_before().whole:
        raise CannotFold("factor and map would go into the same norm")
    with swapped(cut.model, {**cut.changes, **base.changes}):
        added = fit.build(base.shrinkage)
    return Candidate(
        {**base.changes, **added.changes},
        base.alpha if added.alpha is None else added.alpha,
        base.shrinkage * added.shrinkage,
    )


def _loss(quality: Quality) -> float:
    return math.log(quality.perplexity)
