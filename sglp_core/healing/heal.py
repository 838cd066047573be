"""Heal a pruned model: a fine-tuning of a few tensors, of all, or of low-rank updates, without the removed layers.

Teacher and student share one copy of the weights. The dense model is the teacher; the student is the same modules with
the removed layers bypassed and the trained tensors in place of the originals, so only the trained tensors are copies.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import Changes, frozen
from sglp_core.healing.gradients import Trainable, find_gradients
from sglp_core.healing.judge import Judge, best_of, figure_of
from sglp_core.healing.learning_rate import LearningRate
from sglp_core.healing.lora import Adapters, linear_layers
from sglp_core.healing.neighbouring_layers import names_near_cuts
from sglp_core.healing.optimizer import new_optimizer
from sglp_core.healing.trained_weights import TrainedWeights, names_that_stay
from sglp_core.healing.training_samples import training_samples
from sglp_core.healing.training_state import Judgement, KeptState, TrainingState
from sglp_core.options import Healing
from sglp_core.progress import Phase, silent_phase
from sglp_core.structure.batch_norms import batch_norms_that_stay
from sglp_core.tasks import Batch, sample_count, split

# How often the model is judged on held-out data.
JUDGEMENTS = 8
# The state is also kept between judgements that are further apart than this.
KEPT_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Healed:
    """The weights to change (those of the repair too), the names of the trained tensors, and the judgements.

    `step` is the one whose weights were kept; 0 where training made nothing better, and the weights are those before
    it. `resumed_from_step` is where an earlier process was stopped, 0 where there was none.
    """

    changes: Changes
    trained_tensors: tuple[str, ...]
    step: int
    curve: tuple[Judgement, ...]
    trained_windows: int
    judged_windows: int
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
    """Raise `UnsupportedArchitecture` where the model has no tensors that this healing could train, or no images."""
    if healing.trains and healing.augmentation != "none" and model.task != "image_classification":
        raise UnsupportedArchitecture(
            f"{type(model.model).__name__} has no images to crop and flip; leave healing.augmentation out"
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
    healing, kept = training.settings, training.kept
    trained_on, judged = split(batches)
    if not healing.trains or not trained_on:
        return Healed(pruned.changes, (), 0, (), 0, 0)
    at_once = len(trained_on[0].labels)
    trained_on = list(training.data) or trained_on
    size = min(healing.batch_size or at_once, sample_count(trained_on))
    steps = healing.steps_on(sample_count(trained_on), size)
    progress = progress or silent_phase()

    with frozen(model.model):
        trainable = _trainable(model, pruned, training, trained_on[0], smallest=min(size, size % at_once or at_once))
        optimizer = new_optimizer(trainable.tensors.values(), healing)
        resumed_from_step, best, curve = _resumed(trainable, optimizer, kept)
        learning_rate = LearningRate(optimizer, healing.highest_rate, steps, resumed_from_step)
        progress.start(steps, "steps", resumed_from_step)
        judge = Judge(model, judged, size, resumed_from_step, progress)
        if not curve:
            curve = [judge.judge(0, pruned)]
        samples = training_samples(trained_on, size, training.seed, resumed_from_step, healing.augmentation)
        kept_at = time.monotonic()
        for step in range(resumed_from_step + 1, steps + 1):
            # What is not a number never becomes one again. Nothing else ends a training early: while the learning rate
            # is high, a model is often worse than before, and then better than ever.
            if len(curve) > 1 and not math.isfinite(figure_of(curve[-1], healing)):
                break
            find_gradients(model, next(samples), at_once, trainable, healing)
            _take_step(trainable, optimizer, learning_rate)
            progress.update(step)
            judging = step % max(1, steps // JUDGEMENTS) == 0 or step == steps
            if judging:
                curve.append(judge.judge(step, Variant(pruned.removed, _detached(trainable.changes()))))
                if best_of(curve, healing) is curve[-1]:
                    best = {name: tensor.detach().clone() for name, tensor in trainable.state.items()}
            if kept and (judging or time.monotonic() - kept_at >= KEPT_EVERY_SECONDS):
                kept.keep(TrainingState(step, trainable.state, optimizer.state_dict()["state"], best, tuple(curve)))
                kept_at = time.monotonic()
        changes = pruned.changes
        if best:
            _fill(trainable, best)
            changes = _detached(trainable.changes())
    return Healed(
        changes,
        trainable.names,
        best_of(curve, healing).step,
        tuple(curve),
        sample_count(trained_on),
        sample_count(judged),
        resumed_from_step,
    )


def _take_step(trainable: Trainable, optimizer: torch.optim.Optimizer, learning_rate: LearningRate) -> None:
    nn.utils.clip_grad_norm_(trainable.tensors.values(), 1.0)
    optimizer.step()
    learning_rate.advance()
    optimizer.zero_grad(set_to_none=True)


def _trainable(model: LayeredModel, pruned: Variant, training: Training, batch: Batch, smallest: int) -> Trainable:
    """What is trained; the `smallest` number of samples that go through the model says whether batch norms can."""
    if training.settings.trained == "lora":
        return Adapters(model, pruned, training.seed)
    if training.settings.trained == "neighbours":
        return TrainedWeights(model, pruned, names_near_cuts(model, pruned.removed, batch))
    # One image may be one pixel, of which there is no variance; and layers that come to the device run twice a step.
    averages = model.weights.resident and smallest > 1
    norms = batch_norms_that_stay(model.model, model.path, pruned.removed) if averages else {}
    return TrainedWeights(model, pruned, names_that_stay(model, pruned.removed), tuple(norms))


def _resumed(
    trainable: Trainable, optimizer: torch.optim.Optimizer, kept: KeptState | None
) -> tuple[int, Mapping[str, Tensor], list[Judgement]]:
    """Load the state of an earlier process, if there is one; returns its step, its best tensors and its curve."""
    state = kept.find() if kept else None
    if state is None:
        return 0, {}, []
    _fill(trainable, state.tensors)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state.optimizer})
    return state.step, state.best, list(state.curve)


def _detached(changes: Changes) -> Changes:
    return {name: tensor.detach() for name, tensor in changes.items()}


def _fill(trainable: Trainable, values: Mapping[str, Tensor]) -> None:
    for name, tensor in trainable.state.items():
        tensor.data.copy_(values[name])
