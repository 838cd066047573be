"""What the user asked for: a ratio of parameters, of FLOPs or of layers to remove."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

TargetKind = Literal["parameters", "flops", "layers"]


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
