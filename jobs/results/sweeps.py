"""The table of a sweep: quality, size and speed by the ratio that is removed."""

from typing import Literal

from jobs.progress import Document, Layers, Ratio
from jobs.results.quality import Quality


class SweepPoint(Quality):
    """One plan of a sweep, or the dense model where `requested` is 0; sizes are those of the model that remains.

    Seconds are medians at batch 1, null where not all weights were on the device; `decode_seconds` is one token, null
    for models that do not generate too.
    """

    requested: Ratio
    achieved: Ratio
    removed_layers: Layers
    layers: int
    parameters: int
    flops: int
    weight_bytes: int
    prefill_seconds: float | None
    decode_seconds: float | None


class Unreachable(Document):
    """A ratio that no plan reaches."""

    requested: Ratio
    reason: str


class Knee(Document):
    """The point of a sweep after which quality falls fastest."""

    requested: Ratio
    achieved: Ratio


class Sweep(Document):
    """Plans for several ratios to remove, in the unit `of`."""

    of: Literal["parameters", "flops", "layers"]
    points: list[SweepPoint]
    unreachable: list[Unreachable]
    knee: Knee | None
