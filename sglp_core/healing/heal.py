"""Heal a pruned model: a fine-tuning of a few tensors, of all, or of low-rank updates, without the removed layers.

Teacher and student share one copy of the weights. The dense model is the teacher; the student is the same modules with
the removed layers bypassed and the trained tensors in place of the originals, so only the trained tensors are copies.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.evaluation.paired_difference import Difference
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import Changes, frozen
from sglp_core.healing.gradients import find_gradients
from sglp_core.healing.judge import Judge, best_of, figure_of, gain_of
from sglp_core.healing.learning_rate import LearningRate
from sglp_core.healing.lora import linear_layers
from sglp_core.healing.optimizer import new_optimizer, take_step
from sglp_core.healing.trainable import Trainable, trainable_of
from sglp_core.healing.training_samples import training_samples
from sglp_core.healing.training_state import Judgement, KeptState, TrainingState
from sglp_core.options import Augmentation, Healing
from sglp_core.progress import Phase, silent_phase
from sglp_core.tasks import Batch, sample_count, split

# How often the model is judged on held-out data.
JUDGEMENTS = 8
# The state is also kept between judgements that are further apart than this.
KEPT_EVERY_SECONDS = 60.0
# The last of so many is timed: what a process does for the first time takes longer.
TIMED_STEPS = 2


@dataclass(frozen=True)
class Healed:
    """The weights to change (those of the repair too), the names of the trained tensors, and the judgements.

    `step` is the one whose weights were kept; 0 where training made nothing better, and the weights are those before
    it. `gain` is how much better they are on the judged samples, None for step 0. `resumed_from_step` is where an
    earlier process was stopped, 0 where there was none.
    """

    changes: Changes
    trained_tensors: tuple[str, ...]
    step: int
    curve: tuple[Judgement, ...]
    trained_windows: int
    judged_windows: int
    gain: Difference | None = None
    resumed_from_step: int = 0


@dataclass(frozen=True)
class Training:
    """The `settings` of a healing, the `seed` of its random draws, and where its state is kept, None for nowhere.

    `data` is trained on in place of the calibration data.
    """

    settings: Healing
    seed: int = 0
    kept: KeptState | None = None
    data: Sequence[Batch] = ()


def require_trainable(healing: Healing, model: LayeredModel) -> None:
    """Raise `UnsupportedArchitecture` where the model has no tensors that this healing could train, or no images to
    augment, or no classes whose labels could be smoothed."""
    if healing.trains and healing.augmentation != "none" and model.task != "image_classification":
        raise UnsupportedArchitecture(
            f"{type(model.model).__name__} has no images to crop and flip; leave healing.augmentation out"
        )
    if healing.trains and healing.label_smoothing and model.task in {"text_regression", "question_answering"}:
        raise UnsupportedArchitecture(
            f"{type(model.model).__name__} chooses no class, so its labels cannot be smoothed; leave "
            "healing.label_smoothing out"
        )
    if healing.trains and healing.trained == "lora" and not linear_layers(model):
        raise UnsupportedArchitecture(
            f"the layers of {type(model.model).__name__} have no linear layers, which is what LoRA adapts; "
            "heal the neighbours of the cuts instead"
        )


def heal(
    model: LayeredModel, batches: Sequence[Batch], pruned: Variant, training: Training, progress: Phase | None = None
) -> Healed:
    """Train on most of the batches, or on other data; the dense `model` itself stays as it is.

    Starts from the variant `pruned`, or from the kept state of an earlier process. Returns the weights that did best on
    the batches not trained on, by the KL and the loss as they are weighed in training; those of `pruned` where none did
    better.
    """
    fitted, judged = split(batches)
    if not training.settings.trains or not fitted:
        return Healed(pruned.changes, (), 0, (), 0, 0)
    at_once = len(fitted[0].labels)
    trained_on = list(training.data) or fitted
    size = min(training.settings.batch_size or at_once, sample_count(trained_on))
    data = _Data(trained_on, judged, size, at_once)
    with frozen(model.model):
        smallest = min(size, size % at_once or at_once)
        trainable = trainable_of(model, pruned, training.settings.trained, training.seed, trained_on[0], smallest)
        run = _Run(model, pruned, trainable, data, training, progress or silent_phase())
        run.train()
        changes = run.best_changes()
    step = best_of(run.curve, training.settings).step
    return Healed(
        changes,
        trainable.names,
        step,
        tuple(run.curve),
        sample_count(trained_on),
        sample_count(judged),
        gain_of(run.before, run.after, training.settings) if step else None,
        run.resumed_from_step,
    )


@dataclass(frozen=True)
class _Data:
    """What a training is on, in steps of `size` samples, `at_once` of which go through the model at a time."""

    trained_on: Sequence[Batch]
    judged: Sequence[Batch]
    size: int
    at_once: int

    def samples(self, seed: int, done: int, augmentation: Augmentation) -> Iterator[Batch]:
        """The samples of each step after those that are done."""
        return training_samples(self.trained_on, self.size, seed, done, augmentation)


class _Run:
    """One training, which begins where an earlier process was stopped, if its state was kept."""

    def __init__(
        self,
        model: LayeredModel,
        pruned: Variant,
        trainable: Trainable,
        data: _Data,
        training: Training,
        progress: Phase,
    ) -> None:
        self._model, self._pruned, self._trainable, self._at_once = model, pruned, trainable, data.at_once
        self._healing, self._kept, self._progress = training.settings, training.kept, progress
        self._optimizer = new_optimizer(trainable.tensors.values(), self._healing)
        self._steps = self._healing.steps_on(sample_count(data.trained_on), data.size)
        self.resumed_from_step, self.curve = 0, list[Judgement]()
        self._best: Mapping[str, Tensor] = {}
        state = self._kept.find() if self._kept else None
        if state is not None:
            self._resume(state)
        self._samples = data.samples(training.seed, self.resumed_from_step, self._healing.augmentation)
        progress.start(self._steps, "steps", self.resumed_from_step)
        self._judge = Judge(model, data.judged, data.size, self.resumed_from_step, progress)
        if state is None:
            judgement, self.before = self._judge.judge(0, pruned)
            self.curve.append(judgement)
            self.after = self.before
            self._limit_steps(next(data.samples(training.seed, 0, "none")))

    def train(self) -> None:
        """Take all steps that are left."""
        rate = LearningRate(self._optimizer, self._healing.highest_rate, self._steps, self.resumed_from_step)
        kept_at = time.monotonic()
        for step in range(self.resumed_from_step + 1, self._steps + 1):
            # What is not a number never becomes one again. Nothing else ends a training early: while the learning rate
            # is high, a model is often worse than before, and then better than ever.
            if len(self.curve) > 1 and not math.isfinite(figure_of(self.curve[-1], self._healing)):
                break
            find_gradients(self._model, next(self._samples), self._at_once, self._trainable, self._healing)
            take_step(self._optimizer)
            rate.advance()
            self._progress.update(step)
            judging = step % max(1, self._steps // JUDGEMENTS) == 0 or step == self._steps
            if judging:
                self._judge_now(step)
            if self._kept and (judging or time.monotonic() - kept_at >= KEPT_EVERY_SECONDS):
                self._kept.keep(self._state(step))
                kept_at = time.monotonic()

    def best_changes(self) -> Changes:
        """The weights that did best; those of before the training where none did better."""
        if not self._best:
            return self._pruned.changes
        _fill(self._trainable, self._best)
        return _detached(self._trainable.changes())

    def _judge_now(self, step: int) -> None:
        healed = Variant(self._pruned.removed, _detached(self._trainable.changes()))
        judgement, sums = self._judge.judge(step, healed)
        self.curve.append(judgement)
        if best_of(self.curve, self._healing) is judgement:
            self.after = sums
            self._best = {name: tensor.detach().clone() for name, tensor in self._trainable.state.items()}

    def _limit_steps(self, batch: Batch) -> None:
        """Take no more steps than there are seconds for, by the time that one takes, and at least one."""
        if self._healing.max_seconds is None:
            return
        before = {name: tensor.detach().clone() for name, tensor in self._trainable.state.items()}
        for _ in range(TIMED_STEPS):
            begun = time.monotonic()
            find_gradients(self._model, batch, self._at_once, self._trainable, self._healing)
            self._optimizer.zero_grad(set_to_none=True)
        seconds_a_step = time.monotonic() - begun
        # What batch norms have seen in it.
        _fill(self._trainable, before)
        left = self._healing.max_seconds - JUDGEMENTS * self._judge.seconds
        self._steps = max(1, min(self._steps, int(left / seconds_a_step)))
        self._progress.start(self._steps, "steps")

    def _state(self, step: int) -> TrainingState:
        moments = self._optimizer.state_dict()["state"]
        return TrainingState(
            step,
            self._steps,
            self._trainable.state,
            moments,
            self._best,
            tuple(self.curve),
            self.before,
            self.after,
        )

    def _resume(self, state: TrainingState) -> None:
        _fill(self._trainable, state.tensors)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state.optimizer})
        self.resumed_from_step, self._steps = state.step, state.steps
        self._best, self.curve = state.best, list(state.curve)
        self.before, self.after = state.before, state.after


def _detached(changes: Changes) -> Changes:
    return {name: tensor.detach() for name, tensor in changes.items()}


def _fill(trainable: Trainable, values: Mapping[str, Tensor]) -> None:
    for name, tensor in trainable.state.items():
        tensor.data.copy_(values[name])
