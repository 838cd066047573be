"""What changed the weights that stay: repair and healing, with every attempt and step."""

import math
from dataclasses import dataclass

from sglp_core.evaluation.paired_difference import Difference
from sglp_core.healing.heal import Healed
from sglp_core.options import Augmentation, Healing, Optimizer, Precision, Trained
from sglp_core.repair.contract import Attempt, HeldOutQuality
from sglp_core.repair.repair import Repaired
from sglp_core.reporting.json_form import finite


@dataclass(frozen=True)
class RepairAttempt:
    """One repair at one cut.

    Errors are ‖pruned − dense‖² / ‖dense‖² of the residual stream after the cut, means over positions that were not
    fitted on.
    """

    cut: tuple[int, int]
    """First and last removed layer of the cut, both included."""
    kind: str
    """The repair that was tried."""
    accepted: bool
    """Whether its weights were kept."""
    reason: str | None
    """Why it was not kept, or could not be built."""
    alpha: float | None
    """The factor folded into the weights, for the repairs that fold one."""
    error_before: float | None
    """Error without the repair; null where it was not measured or is not finite."""
    error_after: float | None
    """Error with the repair; null where it was not measured or is not finite."""
    built: bool
    """Whether it could be built."""


@dataclass(frozen=True)
class RepairQuality:
    """What the samples that were not fitted on say of all repairs together; null where it is not finite."""

    loss_dense: float | None
    """Mean loss of the dense model in nats a position."""
    loss_before: float | None
    """Mean loss of the pruned model without repairs."""
    loss_after: float | None
    """Mean loss with all repairs."""
    kl_before: float | None
    """Mean KL from the dense model in nats a position, without repairs."""
    kl_after: float | None
    """Mean KL from the dense model with all repairs."""


@dataclass(frozen=True)
class RepairSection:
    """The repairs tried at every cut."""

    fitted_windows: int
    """The number of calibration samples that repairs were fitted on."""
    judged_windows: int
    """The number of calibration samples that they were judged on."""
    quality: RepairQuality | None
    """What the judged samples say of the plan without and with its repairs; null where nothing was repaired."""
    changed_tensors: tuple[str, ...]
    """Names, in the dense model, of the tensors that accepted repairs changed."""
    attempts: tuple[RepairAttempt, ...]
    """All attempts, cut by cut."""


@dataclass(frozen=True)
class HealingPoint:
    """What the samples not trained on say after a number of steps."""

    step: int
    """The number of optimiser steps; 0 is the model before training."""
    loss: float | None
    """Mean loss in nats a position; null where it is not finite."""
    kl: float | None
    """Mean KL from the dense model in nats a position; null where it is not finite."""
    accuracy: float
    """The share of positions whose most likely answer is the label."""
    agreement: float
    """The share of positions whose most likely answer is that of the dense model."""


@dataclass(frozen=True)
class HealingGain:
    """How much lower `alpha` × KL + (1 − `alpha`) × loss is at the kept step than before training, in nats a position.

    On the judged samples, in pairs. The kept step is the best of all judgements on the same samples, so the gain is
    somewhat too high; `stages` has the quality on samples that chose nothing. An interval that includes 0 says that the
    gain may be chance. Null where it is not finite.
    """

    mean: float | None
    """The mean over positions."""
    low: float | None
    """The lower end of its 95 % confidence interval; null where there is one sample."""
    high: float | None
    """The upper end."""


@dataclass(frozen=True)
class HealingSection:
    """The training after the cut: options, and how it went."""

    steps: int
    """Optimiser steps asked for; 0: as many as the epochs have."""
    epochs: int
    """Times that all samples were to be trained on; 0: so many steps. Neither: no healing."""
    learning_rate: float
    """The highest learning rate, between warm-up and decay."""
    optimizer: Optimizer
    """`adamw`, or `sgd` with a Nesterov momentum of 0.9."""
    weight_decay: float
    """Of the optimiser."""
    alpha: float
    """The weight of the KL from the dense model in the loss; the rest is that of the cross-entropy with the labels."""
    temperature: float
    """What softens both distributions of the KL."""
    label_smoothing: float
    """The share of every label that is spread over all classes."""
    max_seconds: float | None
    """What the training was to take at most; null: no limit. The steps that it took are those of the last judgement."""
    trained: Trained
    """`neighbours`: the layers next to the cuts and what follows the stack; `lora`: adapters on every linear layer;
    `all`: everything that stays."""
    source: str
    """What was trained on: `calibration` for the calibration data, otherwise a path or URI."""
    batch_size: int | None
    """Samples a step asked for; null: as many as a calibration batch has."""
    augmentation: Augmentation
    """`crop_and_flip`: images were moved and mirrored at random."""
    precision: Precision
    """`mixed`: what a step can was computed in bfloat16."""
    trained_windows: int
    """The number of samples trained on."""
    judged_windows: int
    """The number of calibration samples judged on."""
    trained_tensors: tuple[str, ...]
    """Names, in the dense model, of the tensors that were trained."""
    kept_step: int
    """The step whose weights were kept; 0 where no step was better than the model before training."""
    gain: HealingGain | None
    """How much better the kept step is than the model before training; null where that was kept."""
    resumed_from_step: int
    """The step from which training was resumed after an interruption; 0 where there was none."""
    curve: tuple[HealingPoint, ...]
    """The judgements during training, in order."""


def repair_section(repaired: Repaired) -> RepairSection:
    return RepairSection(
        fitted_windows=repaired.fitted_windows,
        judged_windows=repaired.judged_windows,
        quality=_quality(repaired.quality),
        changed_tensors=tuple(sorted(repaired.changes)),
        attempts=tuple(_attempt(each) for each in repaired.attempts),
    )


def _attempt(attempt: Attempt) -> RepairAttempt:
    return RepairAttempt(
        cut=attempt.cut.first_and_last,
        kind=attempt.repair,
        accepted=attempt.accepted,
        reason=attempt.reason,
        alpha=finite(attempt.alpha),
        error_before=finite(attempt.error_before),
        error_after=finite(attempt.error_after),
        built=attempt.built,
    )


def _quality(quality: HeldOutQuality | None) -> RepairQuality | None:
    if quality is None:
        return None
    before = quality.before
    return RepairQuality(
        loss_dense=finite(math.log(quality.dense.perplexity)),
        loss_before=finite(math.log(before.perplexity)) if before else None,
        loss_after=finite(math.log(quality.after.perplexity)),
        kl_before=finite(before.kl) if before else None,
        kl_after=finite(quality.after.kl),
    )


def healing_section(healing: Healing, healed: Healed) -> HealingSection:
    return HealingSection(
        steps=healing.steps,
        learning_rate=healing.highest_rate,
        epochs=healing.epochs,
        optimizer=healing.optimizer,
        weight_decay=healing.weight_decay,
        alpha=healing.alpha,
        temperature=healing.temperature,
        label_smoothing=healing.label_smoothing,
        max_seconds=healing.max_seconds,
        trained=healing.trained,
        source=healing.source,
        batch_size=healing.batch_size,
        augmentation=healing.augmentation,
        precision=healing.precision,
        trained_windows=healed.trained_windows,
        judged_windows=healed.judged_windows,
        trained_tensors=healed.trained_tensors,
        kept_step=healed.step,
        gain=_gain(healed.gain) if healed.gain else None,
        resumed_from_step=healed.resumed_from_step,
        curve=tuple(
            HealingPoint(each.step, finite(each.loss), finite(each.kl), each.accuracy, each.agreement)
            for each in healed.curve
        ),
    )


def _gain(gain: Difference) -> HealingGain:
    return HealingGain(finite(gain.mean), finite(gain.low), finite(gain.high))
