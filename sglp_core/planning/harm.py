"""How much removing a set of layers harms the model, measured on small parts of the calibration data.

The harm of a set is KL(dense ‖ pruned) plus the rise of the loss, in nats a prediction. KL alone ignores the labels
and may prefer the model that fits the text less; the loss alone is noisier. On text that the model wrote itself both
estimate the same.

Where the repair may re-estimate batch-norm statistics, a set is measured with the dense model's statistics and with
statistics re-estimated on the same part, and the lower harm counts, as it will in the end: the set that harms least
before that repair is often another than the one that harms least after it (docs/use/images.md).
"""

import math
from collections.abc import Sequence
from itertools import count

from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.progress import Phase, silent_phase
from sglp_core.repair.batch_norm import estimate_statistics
from sglp_core.structure.runs import Removed
from sglp_core.tasks import CLASSIFICATIONS, Batch, Task, rebatch

# Sets are compared on the same window, so one window is enough to rank most of them, and many can be measured.
WINDOWS_AT_ONCE = 1
# A window has hundreds of predictions, an image or a text with a class has one.
SAMPLES_AT_ONCE = 64
FINAL_PARTS = 6
RE_ESTIMATED = ", batch norms re-estimated"


class HarmMeter:
    """Measures the harm of sets of removed layers, each time on the next small part of the calibration data.

    A trial is one set on one part; `parts` trials cost as much as one pass over the calibration data, or three passes
    with `reestimate_batch_norms`.
    """

    def __init__(
        self,
        model: LayeredModel,
        batches: Sequence[Batch],
        progress: Phase | None = None,
        *,
        reestimate_batch_norms: bool = False,
    ) -> None:
        self._reestimate_batch_norms = reestimate_batch_norms
        self._model, self._progress = model, progress or silent_phase()
        self._parts = _parts_of(batches, model.task)
        self._next = count()
        self.parts = len(self._parts)
        self.spent = 0
        self.sums: dict[Removed, float] = {}
        self.trials: dict[Removed, int] = {}

    def __call__(self, sets: Sequence[Removed], parts: int = 1) -> dict[Removed, float]:
        """The harm of each set, mean over the next `parts` parts; infinite where the model is destroyed."""
        means = dict.fromkeys(sets, 0.0)
        for _ in range(parts):
            part = self._parts[next(self._next) % len(self._parts)]
            variants = {str(number): Variant(removed) for number, removed in enumerate(sets)}
            if self._reestimate_batch_norms:
                variants |= {
                    f"{number}{RE_ESTIMATED}": Variant(removed, estimate_statistics(self._model, removed, [part]))
                    for number, removed in enumerate(sets)
                }
            quality = evaluate(self._model, [part], variants)
            for number, removed in enumerate(sets):
                names = variants.keys() & {str(number), f"{number}{RE_ESTIMATED}"}
                harm = min(harm_of(quality["dense"], quality[name]) for name in names)
                means[removed] += harm / parts
                self.sums[removed] = self.sums.get(removed, 0.0) + harm
                self.trials[removed] = self.trials.get(removed, 0) + 1
            self.spent += len(sets)
            self._progress.advance(len(sets))
        return means

    def mean(self, removed: Removed) -> float:
        """Mean harm over every part that a set was tried on."""
        return self.sums[removed] / self.trials[removed]

    def best(self, sets: Sequence[Removed]) -> Removed:
        """The set that harms least, by successive halving: after every part the worse half is dropped.

        The last two are tried on at least `FINAL_PARTS` parts; a single set is tried once, so that `mean` knows it.
        That is about two trials for each set. Of equal sets the first wins.
        """
        remaining = list(dict.fromkeys(sets))
        sums = dict.fromkeys(remaining, 0.0)
        for part in count(1):
            for removed, harm in self(remaining).items():
                sums[removed] += harm
            remaining.sort(key=lambda removed: sums[removed])
            if len(remaining) > 2 or part >= FINAL_PARTS:
                remaining = remaining[: math.ceil(len(remaining) / 2)]
            if len(remaining) == 1:
                break
        return remaining[0]


def harm_of(dense: Quality, pruned: Quality) -> float:
    """KL(dense ‖ pruned) plus the rise of the loss, in nats a prediction; infinite where the model is destroyed."""
    harm = pruned.kl + math.log(pruned.perplexity / dense.perplexity)
    return harm if math.isfinite(harm) else math.inf


def _parts_of(batches: Sequence[Batch], task: Task) -> list[Batch]:
    if task in CLASSIFICATIONS:
        return list(rebatch(batches, SAMPLES_AT_ONCE))
    return [part for batch in batches for part in batch.split(WINDOWS_AT_ONCE)]
