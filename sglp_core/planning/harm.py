"""How much removing a set of layers harms the model, measured on small parts of the calibration data.

The harm of a set is KL(dense ‖ pruned) plus the rise of the loss, in nats a prediction. KL alone ignores the labels
and may prefer the model that fits the text less; the loss alone is noisier. On text that the model wrote itself both
estimate the same.

Where the repair may give the stream its length back (`compensate`), a set is measured with that, which costs nothing
here (docs/decisions/choosing-plans.md has what it brings).

Where the repair may re-estimate batch-norm statistics, a set is measured with the dense model's statistics and with
statistics re-estimated on the same part, and the lower harm counts, as it will in the end: the set that harms least
before that repair is often another than the one that harms least after it (docs/use/images.md).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from statistics import fmean

from sglp_core.evaluation.quality import Quality, evaluate_batches
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import Trial
from sglp_core.execution.variant import Variant
from sglp_core.planning.planning_run import PlanningRun
from sglp_core.repair.batch_norm import estimate_statistics
from sglp_core.structure.runs import Removed
from sglp_core.tasks import WHOLE_SAMPLES, Batch, Task, rebatch

# Sets are compared on the same window, so one window is enough to rank most of them, and many can be measured.
WINDOWS_AT_ONCE = 1
# A window has hundreds of predictions, an image or a text with a class has one.
SAMPLES_AT_ONCE = 64
# Sets are ranked by a part of the positions, because the head costs as much as many layers; at least by so many.
FEWEST_POSITIONS, MOST_THINNED = 64, 4
RE_ESTIMATED = ", batch norms re-estimated"


class HarmMeter:
    """Measures the harm of sets of removed layers, each time on the next small parts of the calibration data.

    A trial is one set on one part. `parts` trials cost less than half a pass over the calibration data, since sets
    share the layers before their first difference, and of language models only a part of the positions is looked at;
    with `reestimate_batch_norms` they cost three passes.
    """

    def __init__(
        self,
        model: LayeredModel,
        batches: Sequence[Batch],
        run: PlanningRun = PlanningRun(),
        *,
        keeps_length: bool = False,
        reestimate_batch_norms: bool = False,
    ) -> None:
        self._reestimate_batch_norms, self._keeps_length = reestimate_batch_norms, keeps_length
        self._model, self._run = model, run
        self._parts = _parts_of(batches, model.task)
        self._trial = Trial(_thinning(self._parts[0], model.task), keeps_length)
        if model.layerwise is not None:
            # All at once, so that what comes before the layers is brought to the device only once.
            model.entered(self._parts)
        self._next = count()
        self.parts = len(self._parts)
        self.spent = 0
        self.sums: dict[Removed, float] = {}
        self.trials: dict[Removed, int] = {}

    def __call__(self, sets: Sequence[Removed], parts: int = 1) -> dict[Removed, float]:
        """The harm of each set, mean over the next `parts` parts; infinite where the model is destroyed."""
        return {removed: fmean(harms) for removed, harms in self.each_part(sets, parts).items()}

    def each_part(self, sets: Sequence[Removed], parts: int) -> dict[Removed, list[float]]:
        """The harm of each set on each of the next `parts` parts (or on all there are), in one walk over the layers."""
        chosen = [next(self._next) % len(self._parts) for _ in range(min(parts, len(self._parts)))]
        inputs = [sets, chosen, self._keeps_length, self._reestimate_batch_norms]
        batches = [self._parts[each] for each in chosen]
        found = self._run.journal.step("harm", inputs, lambda: self._measure(sets, batches))
        harms: dict[Removed, list[float]] = dict(zip(sets, found, strict=True))
        for removed, each in harms.items():
            self.sums[removed] = self.sums.get(removed, 0.0) + sum(each)
            self.trials[removed] = self.trials.get(removed, 0) + len(each)
        self.spent += len(sets) * len(chosen)
        self._run.progress.advance(len(sets) * len(chosen))
        return harms

    def _measure(self, sets: Sequence[Removed], parts: Sequence[Batch]) -> list[list[float]]:
        """The harms of each set, part by part."""
        harms: list[list[float]] = [[] for _ in sets]
        for quality in self._qualities(sets, parts):
            for number, each in enumerate(harms):
                names = quality.keys() & {str(number), f"{number}{RE_ESTIMATED}"}
                each.append(min(harm_of(quality["dense"], quality[name]) for name in names))
        return harms

    def mean(self, removed: Removed) -> float:
        """Mean harm over every part that a set was tried on."""
        return self.sums[removed] / self.trials[removed]

    def _qualities(self, sets: Sequence[Removed], parts: Sequence[Batch]) -> Iterator[dict[str, Quality]]:
        variants = {str(number): Variant(removed) for number, removed in enumerate(sets)}
        if not self._reestimate_batch_norms:
            yield from evaluate_batches(self._model, parts, variants, self._trial)
            return
        for part in parts:
            estimated = {
                f"{number}{RE_ESTIMATED}": Variant(removed, estimate_statistics(self._model, removed, [part]))
                for number, removed in enumerate(sets)
            }
            yield from evaluate_batches(self._model, [part], variants | estimated)


def harm_of(dense: Quality, pruned: Quality) -> float:
    """KL(dense ‖ pruned) plus the rise of the loss, in nats a prediction; infinite where the model is destroyed."""
    harm = pruned.kl + math.log(pruned.perplexity / dense.perplexity)
    return harm if math.isfinite(harm) else math.inf


def _parts_of(batches: Sequence[Batch], task: Task) -> list[Batch]:
    if task in WHOLE_SAMPLES:
        return list(rebatch(batches, SAMPLES_AT_ONCE))
    return [part for batch in batches for part in batch.split(WINDOWS_AT_ONCE)]


def _thinning(part: Batch, task: Task) -> int:
    """One position of so many is looked at."""
    return 1 if task in WHOLE_SAMPLES else max(1, min(MOST_THINNED, part.labels.shape[1] // FEWEST_POSITIONS))
