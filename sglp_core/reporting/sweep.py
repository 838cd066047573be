"""A sweep: every ratio with its quality and time, those out of reach with the reason, and the knee."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglp_core.options import SweepTarget, TargetKind
from sglp_core.planning.sweep import Point, knee_of


@dataclass(frozen=True)
class SweepPoint:
    """The model at one ratio, with the layers really removed; the first point is the dense model.

    Quality is that on the held-out data. Times are medians of five runs at batch 1; they are measured where all weights
    are on the device.
    """

    requested: float
    """The fraction to remove."""
    achieved: float
    """The fraction removed."""
    removed_layers: tuple[int, ...]
    """Numbers of the removed layers, from 0, rising."""
    layers: int
    """The number of layers left."""
    parameters: int
    """The number of parameters left."""
    flops: int
    """FLOPs of one forward pass of one sample."""
    weight_bytes: int
    """Bytes of the weights left, shared ones counted once."""
    perplexity: float | None
    """exp of the mean nats a position; null where it is not finite."""
    accuracy: float | None
    """Share of positions whose most likely answer is the label."""
    agreement: float | None
    """Share of positions whose most likely answer is the dense model's."""
    kl: float | None
    """Mean KL(dense ‖ this) in nats a position; null where it is not finite."""
    prefill_seconds: float | None
    """Seconds of one forward pass over one sample; null where it was not measured."""
    decode_seconds: float | None
    """Seconds of one more token; null where it was not measured, and for models that do not generate."""


@dataclass(frozen=True)
class UnreachableRatio:
    """A ratio that no plan reaches."""

    requested: float
    """The fraction to remove."""
    reason: str
    """Why it cannot be reached."""


@dataclass(frozen=True)
class Knee:
    """The point of ln perplexity against the fraction removed that lies furthest below the chord between the ends."""

    requested: float
    """The fraction to remove at that point."""
    achieved: float
    """The fraction removed there."""


@dataclass(frozen=True)
class SweepSection:
    """Several ratios from one analysis."""

    of: TargetKind
    """What the ratios are fractions of."""
    points: tuple[SweepPoint, ...]
    """The dense model and every ratio that can be reached, rising."""
    unreachable: tuple[UnreachableRatio, ...]
    """The ratios that cannot be reached."""
    knee: Knee | None
    """The knee; null where no point lies below the chord."""


def sweep_section(target: SweepTarget, points: Sequence[Point], unreachable: Mapping[float, str]) -> SweepSection:
    """`unreachable` has the reason for every ratio that no plan reaches."""
    knee = knee_of(points)
    return SweepSection(
        of=target.of,
        points=tuple(_point(each) for each in points),
        unreachable=tuple(UnreachableRatio(ratio, reason) for ratio, reason in unreachable.items()),
        knee=None if knee is None else Knee(knee.requested, knee.achieved),
    )


def _point(point: Point) -> SweepPoint:
    return SweepPoint(
        requested=point.requested,
        achieved=point.achieved,
        removed_layers=point.removed_layers,
        layers=point.layers,
        parameters=point.parameters,
        flops=point.flops,
        weight_bytes=point.weight_bytes,
        **point.quality.to_dict(),
        prefill_seconds=point.latency.prefill_seconds if point.latency else None,
        decode_seconds=point.latency.decode_seconds if point.latency else None,
    )
