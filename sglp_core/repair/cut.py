"""One cut: measure the stream on both sides, build each kind of repair, and judge what was built on held-out data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sglp_core.evaluation.logits import TOLERANCES, difference, probe_logits
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.removal.bypass import bypassed
from sglp_core.removal.variant import Variant
from sglp_core.removal.weight_changes import Changes, swapped
from sglp_core.repair.compensate import Growth, fold_growth, scaled
from sglp_core.repair.fold import fold, fold_change, has_shift
from sglp_core.repair.least_squares import ElementwiseFit, LinearFit
from sglp_core.repair.refit import Refit
from sglp_core.repair.refit_through_norm import RefitThroughNorm
from sglp_core.repair.residual_stream import cut_streams
from sglp_core.repair.residual_writes import NoForm, Writes
from sglp_core.repair.result import Attempt, Built
from sglp_core.repair.write_finder import Forms
from sglp_core.structure.runs import Removed, Run
from sglp_core.tasks import Batch

# How far the epsilon of the norms may part a folded factor from the same factor at the cut, relative, in logits.
FOLD_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Judged:
    """The same windows by the dense model, and by the pruned one as repaired so far."""

    dense: Quality
    pruned: Quality


@dataclass(frozen=True)
class Cut:
    """One run of `removed` layers. The repairs of the cuts before it are in `changes`; `grown` says how many times
    smaller they make the stream than the dense model's."""

    forms: Forms
    removed: Removed
    run: Run
    changes: Changes
    grown: float

    def build(
        self, kinds: Sequence[str], batches: Sequence[Batch], held_out: Sequence[Batch]
    ) -> tuple[dict[str, Built], list[Attempt]]:
        """Each kind of repair, fitted on the batches, and a refusal for each that cannot be folded here.

        What is fitted closely is also held against batches that are `held_out`.
        """
        before = self._writes_before()
        fits = self._fits(before, wants_refit=any("refit" in kind for kind in kinds))
        built: dict[str, Built] = {}
        refused: list[Attempt] = []
        try:
            for batch in batches:
                self._measure(batch, before, fits, held_out=False)
            for batch in () if fits.refit is None or isinstance(fits.refit, NoForm) else held_out:
                self._measure(batch, before, fits, held_out=True)
        except NoForm as reason:
            return {}, [Attempt(self.run, kind, False, str(reason)) for kind in kinds]
        for kind in kinds:
            try:
                if kind == "compensate":
                    built[kind] = self._compensate(fits.growth.alpha(), before)
                    continue
                factor, _, fitted = kind.rpartition(" + ")
                size = built.get(factor) if factor else Built({})
                built[kind] = self._fitted(fitted, before, fits, size)
            except (NoForm, OverflowError, torch.linalg.LinAlgError) as reason:  # type: ignore[attr-defined]
                refused.append(Attempt(self.run, kind, False, str(reason)))
        return built, refused

    def judge(
        self, built: dict[str, Built], batches: Sequence[Batch], so_far: Judged | None
    ) -> tuple[list[Attempt], Judged | None]:
        """Accept the repair with the least KL, if it makes KL less and loss no more than it is without it.

        Below the dense model's loss, less of it is chance and no sign of quality, so there KL decides alone. `so_far`
        is what was said of these batches when the repairs before were judged.
        """
        if not built:
            return [], so_far
        variants = {kind: Variant(self.removed, {**self.changes, **each.changes}) for kind, each in built.items()}
        if so_far is None:
            variants["before"] = Variant(self.removed, self.changes)
        quality = evaluate(self.forms.layered, batches, variants)
        before = so_far.pruned if so_far else quality["before"]
        most = max(_loss(before), _loss(quality["dense"]))
        better = [kind for kind in built if quality[kind].kl < before.kl and _loss(quality[kind]) <= most]
        best = min(better, key=lambda kind: quality[kind].kl, default=None)
        attempts = []
        for kind, each in built.items():
            reason = None
            if kind not in better:
                reason = "held-out divergence does not fall, or loss rises"
            elif kind != best:
                reason = f"{best} does better"
            attempts.append(
                Attempt(
                    self.run,
                    kind,
                    kind == best,
                    reason,
                    each.alpha,
                    _loss(before),
                    _loss(quality[kind]),
                    before.kl,
                    quality[kind].kl,
                )
            )
        return attempts, Judged(quality["dense"], before if best is None else quality[best])

    def _fits(self, before: "Writes | NoForm", *, wants_refit: bool) -> "Fits":
        if isinstance(before, NoForm):
            return Fits(Growth(), None, before)
        write = before.modules[0]
        module: nn.Module = self.forms.model.get_submodule(write.module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        shift = has_shift(self.forms.model, write)
        size, features = len(weight), weight.shape[-1]
        if write.form == "conv1d":
            size, features = features, size
        refit: Refit | RefitThroughNorm | NoForm | None = None
        if wants_refit:
            try:
                if write.form == "norm":
                    refit = RefitThroughNorm(self.forms.model, write, self.forms.inside(self.run.start - 1, write))
                else:
                    refit = Refit(features, size, shift)
            except NoForm as reason:
                refit = reason
        return Fits(
            Growth(), ElementwiseFit(size, shift) if write.form == "norm" else LinearFit(size, size, shift), refit
        )

    def _measure(self, batch: Batch, before: "Writes | NoForm", fits: "Fits", *, held_out: bool) -> None:
        forms = self.forms
        write = before.modules[0] if isinstance(before, Writes) else None
        streams = cut_streams(forms.layered, batch, Variant(self.removed, self.changes), self.run, write)
        wanted = streams.wanted.double() / self.grown
        if not held_out:
            # The first position's massive activation says nothing of the others, and it is one factor for all.
            fits.growth.add(streams.given[~streams.first], wanted[~streams.first])
            if fits.map and streams.written is not None:
                fits.map.add(streams.written, streams.given, wanted)
        if streams.entered is None or streams.written is None:
            return
        if isinstance(fits.refit, Refit):
            fits.refit.add(streams.entered, streams.given, wanted, held_out=held_out)
        elif isinstance(fits.refit, RefitThroughNorm):
            variant = Variant(self.removed, self.changes)
            inner = cut_streams(forms.layered, batch, variant, self.run, fits.refit.inner)
            assert inner.entered is not None
            fits.refit.add(inner.entered, streams.entered, streams.written, streams.given, wanted, held_out=held_out)

    def _compensate(self, alpha: float, before: "Writes | NoForm") -> Built:
        forms = self.forms
        behind = [forms.writes(i) for i in range(self.run.stop, len(forms.layers)) if i not in self.removed]
        with swapped(forms.model, self.changes):
            new = fold_growth(forms.model, alpha, before if isinstance(before, Writes) else None, behind)
        with bypassed(forms.layers, self.removed), swapped(forms.model, {**self.changes, **new}):
            folded = probe_logits(forms.model, forms.probe.inputs)
        at_cut = scaled(forms.layers[self.run.stop - 1], alpha)
        with bypassed(forms.layers, self.removed), swapped(forms.model, self.changes), at_cut:
            expected = probe_logits(forms.model, forms.probe.inputs)
        parted = difference(folded, expected)
        if not parted <= max(FOLD_TOLERANCE, TOLERANCES[folded.dtype]):
            raise NoForm(f"what follows the cut does not undo a factor: logits differ by {parted:.1e}")
        # A post-norm stream has its size from its norms alone, wherever a factor went.
        return Built(new, alpha, 1.0 if any(writes.whole for writes in behind) else alpha)

    def _fitted(self, kind: str, before: "Writes | NoForm", fits: "Fits", size: Built | None) -> Built:
        """A fit alone, or on top of a factor: then it aims at the stream without its growth."""
        if isinstance(before, NoForm):
            raise before
        if size is None:
            raise NoForm("compensate cannot be folded here")
        if size.changes and before.whole:
            raise NoForm("factor and map would go into the same norm")
        model, write = self.forms.model, before.modules[0]
        with swapped(model, self.changes):
            if kind == "refit":
                if isinstance(fits.refit, NoForm):
                    raise fits.refit
                assert fits.refit is not None
                if isinstance(fits.refit, Refit):
                    changes = fold_change(model, write, *fits.refit.solve(size.shrinks))
                elif size.changes:
                    raise NoForm(f"{write.module} is a norm, and has its length from itself")
                else:
                    changes = fits.refit.changes()
            elif isinstance(fits.map, ElementwiseFit):
                changes = fold(model, write, *fits.map.solve(alpha=size.shrinks))
            else:
                assert fits.map is not None
                change, shift = fits.map.solve(alpha=size.shrinks)
                changes = fold(model, write, torch.eye(len(change), dtype=change.dtype) + change, shift)
        return replace(size, changes={**size.changes, **changes})

    def _writes_before(self) -> "Writes | NoForm":
        if self.run.start == 0:
            return NoForm("no layer is left before the cut")
        try:
            return self.forms.writes(self.run.start - 1)
        except NoForm as reason:
            return reason


@dataclass(frozen=True)
class Fits:
    """What is measured at a cut: the growth, the map of what is written, and the weights of the write or why not."""

    growth: Growth
    map: LinearFit | ElementwiseFit | None
    refit: Refit | RefitThroughNorm | NoForm | None


def _loss(quality: Quality) -> float:
    return math.log(quality.perplexity)
