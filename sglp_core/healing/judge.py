"""What held-out samples say of a model during its training, and which state of it is the best."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar

from torch import Tensor

from sglp_core.evaluation.paired_difference import Difference, paired_difference
from sglp_core.evaluation.quality import KL, NATS, POSITIONS, evaluate_samples, quality_of
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.healing.training_state import Judgement
from sglp_core.options import Healing
from sglp_core.progress import Phase
from sglp_core.tasks import Batch

Figure = TypeVar("Figure", float, Tensor)


class Judge:
    """Judges on the same `batches`, and tells the progress of a training that goes on from a `step`.

    `samples_a_step` are those trained on, for the speed between two judgements. `seconds` are those of the last one.
    """

    def __init__(
        self, model: LayeredModel, batches: Sequence[Batch], samples_a_step: int, step: int, progress: Phase
    ) -> None:
        self._model, self._batches, self._samples_a_step = model, batches, samples_a_step
        self._step, self._progress = step, progress
        self._since = time.monotonic()
        self.seconds = 0.0

    def judge(self, step: int, variant: Variant) -> tuple[Judgement, Tensor]:
        """The judgement of the model as it is after so many steps, and its sums of each sample (`evaluate_samples`)."""
        trained = (step - self._step) * self._samples_a_step
        speed = trained / (time.monotonic() - self._since) if trained else None
        begun = time.monotonic()
        sums = evaluate_samples(self._model, self._batches, {"healed": variant})["healed"]
        quality = quality_of(sums.sum(0))
        self.seconds = time.monotonic() - begun
        found = Judgement(step, math.log(quality.perplexity), quality.kl, quality.accuracy, quality.agreement)
        self._progress.judged({**asdict(found), "samples_per_second": speed})
        self._step, self._since = step, time.monotonic()
        return found, sums


def best_of(curve: Sequence[Judgement], healing: Healing) -> Judgement:
    """The first of the best; NaN never wins."""
    best = curve[0]
    for point in curve[1:]:
        if figure_of(point, healing) < figure_of(best, healing):
            best = point
    return best


def figure_of(judgement: Judgement, healing: Healing) -> float:
    """KL and loss as they are weighed in training, in nats a position."""
    return _weighed(judgement.kl, judgement.loss, healing)


def gain_of(before: Tensor, after: Tensor, healing: Healing) -> Difference:
    """How much lower that figure is, from the sums of each sample before the training and after it."""
    figure_before, figure_after = (_weighed(sums[:, KL], sums[:, NATS], healing) for sums in (before, after))
    return paired_difference(figure_before, figure_after, before[:, POSITIONS])


def _weighed(kl: Figure, loss: Figure, healing: Healing) -> Figure:
    # What has no weight may be infinite.
    if healing.alpha in {0, 1}:
        return kl if healing.alpha else loss
    return healing.alpha * kl + (1 - healing.alpha) * loss
