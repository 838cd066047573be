"""What the user asks for: the target, the method, the data and the healing of a job."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from sglp_core.errors import BadLayers, TargetUnreachable

Trained = Literal["neighbours", "lora", "all"]
Optimizer = Literal["adamw", "sgd"]
Augmentation = Literal["none", "crop_and_flip"]
Precision = Literal["full", "mixed"]
# Updates of low rank start from nothing and bear larger steps than the weights themselves.
LEARNING_RATES: dict[Trained, float] = {"neighbours": 3e-4, "lora": 1e-3, "all": 3e-5}
SGD_LEARNING_RATE = 0.01
CHOICES_OF_HEALING = {"trained": Trained, "augmentation": Augmentation, "precision": Precision, "optimizer": Optimizer}
RANGES_OF_HEALING = {
    "alpha": (0.0, 1.0),
    "temperature": (0.1, 100.0),
    "label_smoothing": (0.0, 0.9),
    "weight_decay": (0.0, 1.0),
}

# The tables whose names `Method.importance` may be. `analysis/criteria`, which imports this file, puts its tables here.
IMPORTANCE_TABLES: list[Mapping[str, object]] = []
# Likewise for `Method.repair`; `repair` puts its table here.
REPAIR_TABLES: list[Mapping[str, object]] = []
# Not a criterion: all criteria propose a plan, and the model says which proposal harms it least.
PROPOSALS = "proposals"
Estimator = Literal["unbiased", "biased"]
Kernel = Literal["linear", "rbf"]
Feature = Literal["rows", "row_sums"]
Memory = Literal["auto", "in_memory", "streaming"]
TargetKind = Literal["parameters", "flops", "layers"]
Metric = Literal["perplexity", "accuracy", "agreement"]


@dataclass(frozen=True)
class Target:
    """`ratio` is the fraction of the whole model to remove (embeddings and head included), 0 < ratio < 1.

    A plan removes at least that much; where `exact`, which a `LayersTarget` is turned into, just that many layers.
    """

    kind: TargetKind
    ratio: float
    exact: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetKind):
            raise ValueError(f"target kind must be one of {', '.join(get_args(TargetKind))}, not {self.kind!r}")
        if not (math.isfinite(self.ratio) and 0 < self.ratio < 1):
            hint = "; LayersTarget takes a number of layers" if self.kind == "layers" else ""
            raise ValueError(f"target ratio must lie between 0 and 1 (both excluded), not {self.ratio}{hint}")
        if self.exact and self.kind != "layers":
            raise ValueError(f"only layers can be removed exactly, not {self.kind}")


@dataclass(frozen=True)
class LayersTarget:
    """Remove exactly `count` layers, or all but exactly `left`; one of the two."""

    count: int | None = None
    left: int | None = None

    def __post_init__(self) -> None:
        given = [number for number in (self.count, self.left) if number is not None]
        if len(given) != 1 or given[0] < 1:
            raise ValueError(f"give one of count and left, at least 1, not count={self.count} and left={self.left}")

    def of(self, layers: int) -> Target:
        """The same for a model of so many layers. Raises `TargetUnreachable`."""
        count = layers - self.left if self.left is not None else self.count or 0
        if not 0 < count < layers:
            asked = f"/target/count is {self.count}" if self.left is None else f"/target/left is {self.left}"
            raise TargetUnreachable(f"{asked}, and the model has {layers} layers: at least one goes, and one stays")
        return Target("layers", count / layers, exact=True)


@dataclass(frozen=True)
class PlanTarget:
    """Remove just the layers `remove`, or all but the layers `keep`; negative numbers count from the end.

    `layers` is the number of layers of the models that the plan is for; None: any.
    """

    remove: tuple[int, ...] | None = None
    keep: tuple[int, ...] | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        if (self.remove is None) == (self.keep is None) or not (self.remove or self.keep):
            raise ValueError("give one of remove and keep, with at least one layer")


@dataclass(frozen=True)
class QualityTarget:
    """Remove as many layers as lose no more than `max_drop` of a metric.

    Of perplexity that is the relative increase (0.1: at most 10 % more), of accuracy the difference in the share of
    positions that are right, of agreement the share of positions where the dense model's top-1 is no longer the top-1.
    """

    metric: Metric
    max_drop: float

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, not {self.metric!r}")
        if not (math.isfinite(self.max_drop) and self.max_drop >= 0):
            raise ValueError(f"max_drop must be a number of at least 0, not {self.max_drop}")
        if self.metric != "perplexity" and self.max_drop >= 1:
            raise ValueError(f"max_drop of {self.metric} is a difference of shares and must be below 1")

    def drop(self, dense: float, pruned: float) -> float:
        """What is lost of the metric; less than 0 where the pruned model is better."""
        return pruned / dense - 1 if self.metric == "perplexity" else dense - pruned


# Those whose size is known before the model has run, and all of them.
SizedTarget: TypeAlias = Target | LayersTarget | PlanTarget
RemovalTarget: TypeAlias = SizedTarget | QualityTarget


@dataclass(frozen=True)
class SweepTarget:
    """Look at several `ratios` to remove of the parameters, FLOPs or layers; kept in rising order, each once."""

    of: TargetKind
    ratios: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.ratios:
            raise ValueError("a sweep needs at least one ratio")
        object.__setattr__(self, "ratios", tuple(target.ratio for target in self.targets()))

    def targets(self) -> tuple[Target, ...]:
        return tuple(Target(self.of, ratio) for ratio in sorted(set(self.ratios)))


@dataclass(frozen=True)
class Calibration:
    """Where the calibration data comes from: `self`, or a path or file:// URI.

    Language models take `samples` windows of `sequence_length` tokens of a `.txt`, `.jsonl` or `.parquet` file,
    classifiers of texts `samples` documents of one, each cut at so many tokens and labelled by the model itself; image
    classifiers `samples` images of a folder of class folders, a `.zip` of one, or a `.parquet` file. `batch_size` at a
    time; everything drawn is drawn from `seed`.
    """

    source: str = "self"
    samples: int = 64
    sequence_length: int = 256
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Held-out data: `held_out` windows of the calibration source that the plan never saw, or a text file."""

    source: str = "held_out"
    samples: int = 16
    controls: bool = True


@dataclass(frozen=True)
class Healing:
    """A training of `steps` optimiser steps, or of `epochs` over its samples; of neither: none.

    A step has `batch_size` samples, by default as many as a calibration batch has. More samples than that are taken
    through the model in parts of that size. `source` is `calibration`, for the calibration samples that do not judge
    it, or another source.

    `trained` are the layers next to the cuts and what follows the stack (`neighbours`), an update of low rank for every
    linear layer that stays (`lora`), or everything that stays, with batch norms in training mode (`all`).

    The loss is that of Hinton et al. (arXiv 1503.02531): `alpha` times the KL from the dense model's distribution, both
    softened by `temperature` and times its square, and 1 - `alpha` times the cross-entropy with the labels, smoothed by
    `label_smoothing`. What is judged and kept is the same without softening and smoothing.

    `learning_rate` is the highest, by default that of `LEARNING_RATES`; `sgd` has a Nesterov momentum of 0.9.

    `max_seconds` makes the steps fewer where there is no time for all, before the first of them, by the time that one
    takes; the learning rate still falls to 0 at the last.

    `crop_and_flip` moves every image by up to an eighth of its size and mirrors half of them, differently each time;
    the dense model sees the same. `mixed` computes what a step can in bfloat16 (torch.autocast), with weights and
    judgements as they are.
    """

    steps: int = 0
    learning_rate: float | None = None
    alpha: float = 1.0
    trained: Trained = "neighbours"
    source: str = "calibration"
    batch_size: int | None = None
    augmentation: Augmentation = "none"
    precision: Precision = "full"
    epochs: int = 0
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.0
    temperature: float = 1.0
    label_smoothing: float = 0.0
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES_OF_HEALING.items():
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"healing.{name} must be one of {', '.join(get_args(allowed))}, not {getattr(self, name)!r}"
                )
        for name, (least, most) in RANGES_OF_HEALING.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"healing.{name} must lie between {least} and {most}, not {getattr(self, name)}")
        if self.steps and self.epochs:
            raise ValueError("give healing.steps or healing.epochs, not both")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"healing needs at least one sample a step, not {self.batch_size}")
        if self.max_seconds is not None and not (math.isfinite(self.max_seconds) and self.max_seconds > 0):
            raise ValueError(f"healing.max_seconds must be a positive number, not {self.max_seconds}")
        if self.source in {"self", "held_out"}:
            raise ValueError(f"healing.source must be 'calibration', or a file or folder, not {self.source!r}")
        if self.steps < 0 or self.epochs < 0:
            raise ValueError(f"healing.steps and epochs must not be negative, not {min(self.steps, self.epochs)}")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"the learning rate must be a positive number, not {self.learning_rate}")

    @property
    def highest_rate(self) -> float:
        """The learning rate between warm-up and decay."""
        default = SGD_LEARNING_RATE if self.optimizer == "sgd" else LEARNING_RATES[self.trained]
        return default if self.learning_rate is None else self.learning_rate

    @property
    def trains(self) -> bool:
        """Whether there is a healing."""
        return bool(self.steps or self.epochs)

    def steps_on(self, samples: int, a_step: int) -> int:
        """Optimiser steps on so many samples; the last epoch may end with samples that were not seen again."""
        return self.steps or -(-self.epochs * samples // a_step)


@dataclass(frozen=True)
class Method:
    """How layers are measured, chosen and repaired."""

    segments: int | Literal["auto"] = "auto"
    """The number of segments; `auto`: found from the similarity of the layers."""
    feature: Feature = "rows"
    """What of the similarity matrix describes a layer when segments are found: its row, or the sum of its row."""
    importance: str = PROPOSALS
    """A criterion, a control, or `proposals`: all criteria propose plans, and the one that harms least is taken."""
    estimator: Estimator = "unbiased"
    """The estimator of CKA."""
    kernel: Kernel = "linear"
    """The kernel of CKA."""
    protected: tuple[int, ...] | None = None
    """Numbers of layers that are never removed, negative ones from the end; None: the first and the last."""
    repair: str = "auto"
    """How weights that stay make up for the removed layers: a repair, `none`, or `auto`, which tries all and keeps the
    best; kept only where held-out samples agree."""

    def __post_init__(self) -> None:
        known = (PROPOSALS, *(name for table in IMPORTANCE_TABLES for name in table))
        if self.importance not in known:
            raise ValueError(f"importance must be one of {', '.join(known)}, not {self.importance!r}")
        repairs = ("none", *(name for table in REPAIR_TABLES for name in table), "auto")
        if self.repair not in repairs:
            raise ValueError(f"repair must be one of {', '.join(repairs)}, not {self.repair!r}")

    def protected_in(self, count: int) -> set[int]:
        """The protected layers of a model of `count` layers. Raises `BadLayers`."""
        if self.protected is None:
            return {0, count - 1}
        return set(layer_numbers(self.protected, count, "/method/protected"))


def layer_numbers(numbers: Sequence[int], count: int, pointer: str) -> list[int]:
    """Numbers of layers in a model of `count` layers, where negative ones count from the end.

    Raises `BadLayers` where there is no such layer, naming it by its place below the JSON `pointer`.
    """
    for place, number in enumerate(numbers):
        if not -count <= number < count:
            raise BadLayers(f"{pointer}/{place} is {number}, and the model has the layers 0 to {count - 1}")
    return [number % count for number in numbers]


@dataclass(frozen=True)
class Options:
    """How a job is done; `revision` is the branch, tag or commit of a model from a hub."""

    revision: str | None = None
    method: Method = Method()
    calibration: Calibration = Calibration()
    evaluation: Evaluation = Evaluation()
    healing: Healing = Healing()
