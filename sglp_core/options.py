"""What the user asked for: a ratio of parameters, FLOPs or layers, a budget of lost quality, or a sweep."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TargetKind = Literal["parameters", "flops", "layers"]
Metric = Literal["perplexity", "accuracy", "agreement"]


@dataclass(frozen=True)
class Target:
    """`ratio` is the fraction of the whole model to remove (embeddings and head included), 0 < ratio < 1."""

    kind: TargetKind
    ratio: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(TargetKind):
            raise ValueError(f"target kind must be one of {', '.join(get_args(TargetKind))}, not {self.kind!r}")
        if not (math.isfinite(self.ratio) and 0 < self.ratio < 1):
            raise ValueError(f"target ratio must lie between 0 and 1 (both excluded), not {self.ratio}")


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
