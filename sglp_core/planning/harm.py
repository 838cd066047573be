"""What removing a set of layers does to the model itself, asked a window at a time.

The harm of a set is KL(dense ‖ pruned) plus the rise of the loss, in nats a prediction. KL alone is blind to what the
data says, and may prefer the model that is less like the text; the loss alone is the noisier of the two. On text the
model wrote itself both estimate the same.

Where batch norms may be estimated anew after the cut, a set is judged with the dense model's statistics and with those
of the part it is tried on, and the better of the two counts, as it will in the end: what harms least before that step
is not what harms least after it (docs/use/images.md).
"""

import math
from collections.abc import Sequence
from itertools import count

from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.progress import Phase, silent_phase
from sglp_core.removal.variant import Variant
from sglp_core.repair.batch_norm import estimate_statistics
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.structure.runs import Removed
from sglp_core.tasks import CLASSIFICATIONS, Batch, Task, rebatch

# Sets are compared on the same window, so one is enough to tell most apart and many sets can be asked about.
WINDOWS_AT_ONCE = 1
# A window has hundreds of predictions, an image or a text with a class has one.
SAMPLES_AT_ONCE = 64
FINAL_PARTS = 6
RE_ESTIMATED = ", batch norms re-estimated"


class Judge:
    """The harm of sets of removed layers, on one small part of the calibration data after the other.

    A trial is one set on one part; `parts` trials cost as much as one pass over the calibration data, or three where
    batch norms are `estimated` anew for each.
    """

    def __init__(
        self,
        model: LayeredModel,
        batches: Sequence[Batch],
        progress: Phase | None = None,
        *,
        estimated: bool = False,
    ) -> None:
        self._estimated = estimated
        self._model, self._progress = model, progress or silent_phase()
        self._parts = _parts_of(batches, model.task)
        self._next = count()
        self.parts = len(self._parts)
        self.spent = 0
        self.sums: dict[Removed, float] = {}
        self.trials: dict[Removed, int] = {}

    def __call__(self, sets: Sequence[Removed], parts: int = 1) -> dict[Removed, float]:
        """The harm of each set, mean over the next `parts` parts; infinite where the model is destroyed."""
        found = dict.fromkeys(sets, 0.0)
        for _ in range(parts):
            part = self._parts[next(self._next) % len(self._parts)]
            variants = {str(number): Variant(removed) for number, removed in enumerate(sets)}
            if self._estimated:
                variants |= {
                    f"{number}{RE_ESTIMATED}": Variant(removed, estimate_statistics(self._model, removed, [part]))
                    for number, removed in enumerate(sets)
                }
            quality = evaluate(self._model, [part], variants)
            for number, removed in enumerate(sets):
                names = variants.keys() & {str(number), f"{number}{RE_ESTIMATED}"}
                harm = min(harm_of(quality["dense"], quality[name]) for name in names)
                found[removed] += harm / parts
                self.sums[removed] = self.sums.get(removed, 0.0) + harm
                self.trials[removed] = self.trials.get(removed, 0) + 1
            self.spent += len(sets)
            self._progress.advance(len(sets))
        return found

    def mean(self, removed: Removed) -> float:
        """Mean harm over every part a set was tried on."""
        return self.sums[removed] / self.trials[removed]

    def best(self, sets: Sequence[Removed]) -> Removed:
        """The set that harms least, by successive halving: after every part the worse half is out.

        The last two are tried on at least `FINAL_PARTS`, and a single set once, for what it does is asked afterwards.
        That is about two trials for each set. Equal sets are settled by their order.
        """
        alive = list(dict.fromkeys(sets))
        sums = dict.fromkeys(alive, 0.0)
        for part in count(1):
            for removed, harm in self(alive).items():
                sums[removed] += harm
            alive.sort(key=lambda removed: sums[removed])
            if len(alive) > 2 or part >= FINAL_PARTS:
                alive = alive[: math.ceil(len(alive) / 2)]
            if len(alive) == 1:
                break
        return alive[0]


def harm_of(dense: Quality, pruned: Quality) -> float:
    """KL(dense ‖ pruned) plus the rise of the loss, in nats a prediction; infinite where the model is destroyed."""
    harm = pruned.kl + math.log(pruned.perplexity / dense.perplexity)
    return harm if math.isfinite(harm) else math.inf


def _parts_of(batches: Sequence[Batch], task: Task) -> list[Batch]:
    if task in CLASSIFICATIONS:
        return list(rebatch(batches, SAMPLES_AT_ONCE))
    return [part for batch in batches for part in batch.split(WINDOWS_AT_ONCE)]
