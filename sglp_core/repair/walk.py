"""One walk over the layers in which the cuts of several plans are repaired."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sglp_core.execution.variant import Variant
from sglp_core.execution.variants import States, Track, Walk
from sglp_core.execution.weight_changes import Changes, swapped
from sglp_core.progress import Phase
from sglp_core.repair.contract import Attempt, Candidate, CutFit, CutRepair, HeldOutQuality
from sglp_core.repair.cut import Cut
from sglp_core.repair.exit_quality import ExitQuality
from sglp_core.repair.fold import shrink
from sglp_core.repair.named_repairs import Combination, combination_name, cut_repairs
from sglp_core.repair.plan_in_walk import PlanInWalk, Request
from sglp_core.repair.residual_stream import CutInWalk
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.repair.writes.residual_writes import CannotFold
from sglp_core.structure.runs import Removed, Run, runs_of
from sglp_core.tasks import Batch


class RepairWalk:
    """Repairs each request by the best of these combinations, cut by cut.

    Without `tunes`, fits are quicker and not as good, which is enough to compare plans.
    """

    def __init__(
        self,
        finder: WriteFinder,
        batches: Sequence[Batch],
        requests: Sequence[Request],
        combinations: Sequence[Combination],
        *,
        tunes: bool = True,
    ) -> None:
        layerwise = finder.layered.layerwise
        assert layerwise is not None
        self._finder, self._requests = finder, requests
        self._combinations, self._tunes = combinations, tunes
        names = {each for combination in self._combinations for each in combination}
        self._rows = {each: row for each, row in cut_repairs().items() if each in names}
        self._only_scales = all(row.scales for row in self._rows.values())
        self._walk = Walk(finder.layered, layerwise, batches)
        self._dense = self._walk.track(Variant())
        self._plans = [
            PlanInWalk(each, self._walk.track(Variant(each.removed)), runs_of(each.removed)) for each in requests
        ]

    @torch.no_grad()
    def run(self, progress: Phase, *, judges_unrepaired: bool) -> list[tuple[Changes, list[Attempt], HeldOutQuality]]:
        """For each request the new weights, the attempts at each cut, and the quality on its held-out batches."""
        count = len(self._finder.layers)
        judged = frozenset[int]().union(*(each.held_out for each in self._requests))
        unrepaired: dict[Removed, Track] = {}
        if judges_unrepaired:
            unrepaired = {each.removed: self._walk.track(Variant(each.removed)) for each in self._requests}
        progress.start(count + len(judged), "steps")
        for index in range(count):
            with self._walk.layer(index):
                for plan in self._plans:
                    self._enter(index, plan)
                self._walk.advance(index, [self._dense, *unrepaired.values(), *(plan.track for plan in self._plans)])
            for track in unrepaired.values():
                if index in track.removed:
                    track.states = _only(track.states, judged)
            self._end_cuts(index + 1)
            if not any(plan.cuts for plan in self._plans):
                self._dense.states = _only(self._dense.states, judged)
            progress.advance()
        qualities = self._judge(unrepaired, judged, progress)
        return [(plan.changes, plan.attempts, quality) for plan, quality in zip(self._plans, qualities, strict=True)]

    def _enter(self, index: int, plan: PlanInWalk) -> None:
        """Before a layer: make its writes as small as the stream is by now, and keep what enters it before a cut."""
        if index in plan.request.removed:
            return
        if plan.shrinkage != 1.0:
            try:
                self._change(plan, shrink(self._finder.model, self._finder.writes(index), plan.shrinkage))
            except (CannotFold, OverflowError) as reason:
                plan.fail(f"layer {index} cannot take the factor: {reason}")
        if plan.cuts and plan.cuts[0].start == index + 1:
            plan.before = plan.track.states

    def _end_cuts(self, stop: int) -> None:
        """Repair the cuts that end before this layer; plans that have not differed are measured together."""
        together: dict[tuple[object, ...], list[PlanInWalk]] = {}
        for plan in self._plans:
            if plan.cuts and plan.cuts[0].stop == stop:
                changes = tuple((name, id(value)) for name, value in sorted(plan.track.changes.items()))
                key = (plan.cuts[0], id(plan.track.states), changes)
                together.setdefault(key, []).append(plan)
        for plans in together.values():
            self._repair(plans)

    def _repair(self, plans: Sequence[PlanInWalk]) -> None:
        run, first = plans[0].cuts[0], plans[0]
        here = CutInWalk(self._walk, run, first.track, first.before, self._dense.states)
        with here.layer_before():
            cuts = {plan: Cut(self._finder, plan.request.removed, here, plan.shrinkage, self._tunes) for plan in plans}
            fits: dict[PlanInWalk, dict[str, CutFit | CannotFold]]
            with swapped(self._finder.model, self._walk.of_layer(run.start - 1, first.track.changes)):
                fits = {plan: {name: _fit(row, cuts[plan]) for name, row in self._rows.items()} for plan in plans}
                try:
                    self._measure(cuts, fits)
                except CannotFold as reason:
                    for plan in plans:
                        self._refuse(plan, run, str(reason))
                    return
            for plan in plans:
                self._choose(plan, cuts[plan], fits[plan])
        for plan in plans:
            plan.cuts.pop(0)
            plan.before = None
            if not plan.cuts:
                # From here on the plan is only judged.
                plan.track.states = _only(plan.track.states, plan.request.held_out)

    def _refuse(self, plan: PlanInWalk, run: Run, reason: str) -> None:
        plan.attempts += [
            Attempt(run, combination_name(each), False, reason, built=False) for each in self._combinations
        ]
        plan.cuts.pop(0)

    def _measure(
        self, cuts: Mapping[PlanInWalk, Cut], fits: Mapping[PlanInWalk, Mapping[str, CutFit | CannotFold]]
    ) -> None:
        anyone = next(iter(cuts.values()))
        for number, batch in enumerate(self._walk.batches):
            # Also where nothing is fitted: streams that cannot be read at all are the first reason to report.
            streams = anyone.streams(batch)
            for plan in cuts:
                held_out = number in plan.request.held_out
                taking = [
                    fit
                    for name, fit in fits[plan].items()
                    if not isinstance(fit, CannotFold) and (self._rows[name].uses_held_out or not held_out)
                ]
                for fit in taking:
                    fit.add(batch, streams, held_out=held_out)

    def _choose(self, plan: PlanInWalk, cut: Cut, fits: Mapping[str, CutFit | CannotFold]) -> None:
        """Take the candidate whose stream is nearest to the dense model's on the held-out batches.

        The longest combinations come first, and others only where none of those helps: they keep the length of the
        stream beside its direction. The error of the stream alone would take a map without a factor, which does worse
        at the exit (docs/method/repair.md).
        """
        candidates: dict[Combination, Candidate] = {}
        before = self._error(plan, cut, Candidate({}))
        best: Combination | None = None
        for length in sorted({len(each) for each in self._combinations}, reverse=True):
            errors: dict[Combination, float] = {}
            for each in (each for each in self._combinations if len(each) == length):
                try:
                    candidate = self._candidate(plan, cut, fits, each, candidates)
                except (CannotFold, OverflowError, torch.linalg.LinAlgError) as reason:  # type: ignore[attr-defined]
                    plan.attempts.append(Attempt(cut.run, combination_name(each), False, str(reason), built=False))
                    continue
                errors[each] = self._error(plan, cut, candidate)
            # The error prefers a stream that is too short, so what only scales it is judged at the exit alone.
            better = [each for each, error in errors.items() if error < before or self._only_scales]
            best = min(better, key=lambda each: errors[each], default=None)
            for each, error in errors.items():
                why = "the held-out error of the stream does not fall"
                if each in better:
                    why = f"{combination_name(best or ())} does better"
                attempt = Attempt(cut.run, combination_name(each), each == best, None if each == best else why)
                plan.attempts.append(
                    replace(attempt, alpha=candidates[each].alpha, error_before=before, error_after=error)
                )
            if best is not None:
                self._take(plan, cut, candidates[best])
                why = f"not tried, as {combination_name(best)} helps"
                rest = [combination_name(each) for each in self._combinations if len(each) < length]
                plan.attempts += [Attempt(cut.run, name, False, why, built=False) for name in rest]
                return

    def _candidate(
        self,
        plan: PlanInWalk,
        cut: Cut,
        fits: Mapping[str, CutFit | CannotFold],
        combination: Combination,
        built: dict[Combination, Candidate],
    ) -> Candidate:
        """The candidate of a combination, and before it those that it is built on."""
        if combination not in built:
            if len(combination) > 1:
                self._candidate(plan, cut, fits, combination[:-1], built)
            with swapped(self._finder.model, self._walk.of_layer(cut.run.start - 1, plan.track.changes)):
                built[combination] = self._build(cut, fits, combination, built)
        return built[combination]

    def _build(
        self,
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
        base = built[tuple(below)] if below else Candidate({})
        if base.changes and cut.writes_before().whole:
            raise CannotFold("factor and map would go into the same norm")
        with swapped(self._finder.model, base.changes):
            added = fit.build(base.shrinkage)
        return Candidate(
            {**base.changes, **self._as_stored(added.changes)},
            base.alpha if added.alpha is None else added.alpha,
            base.shrinkage * added.shrinkage,
        )

    def _error(self, plan: PlanInWalk, cut: Cut, candidate: Candidate) -> float:
        total, count = 0.0, 0
        for number in sorted(plan.request.held_out):
            error, positions = cut.here.distance(
                number, {**plan.track.changes, **candidate.changes}, cut.shrinkage * candidate.shrinkage
            )
            total, count = total + float(error), count + positions
        return total / count

    def _take(self, plan: PlanInWalk, cut: Cut, candidate: Candidate) -> None:
        self._change(plan, candidate.changes)
        plan.shrinkage *= candidate.shrinkage
        if candidate.changes:
            needed = range(len(self._walk.batches)) if len(plan.cuts) > 1 else plan.request.held_out
            plan.track.states = {
                number: self._walk.keep(cut.here.after(number, plan.track.changes)) for number in sorted(needed)
            }

    def _change(self, plan: PlanInWalk, changes: Changes) -> None:
        plan.changes |= {name: self._walk.keep(value) for name, value in self._as_stored(changes).items()}
        plan.track.changes = {**plan.track.changes, **plan.changes}

    def _as_stored(self, changes: Changes) -> dict[str, Tensor]:
        """Rounded to the types that the weights are stored in. Raises `OverflowError`."""
        stored = {n: value.to(self._finder.layered.weights.stored_type(n)) for n, value in changes.items()}
        if not all(bool(torch.isfinite(value).all()) for value in stored.values()):
            raise OverflowError("a repaired weight is not finite in the type that it is stored in")
        return stored

    def _judge(
        self, unrepaired: Mapping[Removed, Track], judged: frozenset[int], progress: Phase
    ) -> list[HeldOutQuality]:
        """The quality of each plan on its held-out batches; without its repairs where these failed."""
        at_exit = ExitQuality(self._walk)
        with self._walk.outside():
            for number in sorted(judged):
                repaired = [plan.track for plan in self._plans if number in plan.request.held_out]
                at_exit.add(number, self._dense, [*unrepaired.values(), *repaired])
                progress.advance()
        qualities = []
        for plan in self._plans:
            numbers, without = plan.request.held_out, unrepaired.get(plan.request.removed)
            before = at_exit.quality(without, numbers) if without else None
            after = before if plan.failed and before else at_exit.quality(plan.track, numbers)
            qualities.append(HeldOutQuality(at_exit.quality(self._dense, numbers), before, after))
        return qualities


def _fit(repair: CutRepair, cut: Cut) -> CutFit | CannotFold:
    try:
        return repair.fit(cut)
    except CannotFold as reason:
        return reason.kept()


def _only(states: States, numbers: frozenset[int]) -> States:
    return states if len(states) == len(numbers) else {n: state for n, state in states.items() if n in numbers}
