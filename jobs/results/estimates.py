"""What a job would need, told without reading weights."""

from typing import Literal

from jobs.progress import Document, Ratio


class StackLayer(Document):
    """A layer of the model."""

    index: int
    name: str
    parameters: int
    flops: int


class ReachableRatio(Document):
    """The largest ratio that could be removed, and the shares of the smallest and the largest removable layer."""

    largest: Ratio
    smallest_layer: Ratio
    largest_layer: Ratio


class ReachableRatios(Document):
    """The ratios by unit."""

    parameters: ReachableRatio
    flops: ReachableRatio
    layers: ReachableRatio


class EstimatedTarget(Document):
    """The target of the specification, and whether it can be reached. `exact`: just that, and not at least that."""

    kind: Literal["parameters", "flops", "layers"]
    ratio: Ratio
    reachable: bool
    exact: bool = False


class MachineSpeed(Document):
    """The speed of the worker that the seconds are estimated for."""

    flops_per_second: float
    bytes_per_second: float


class Estimate(Document):
    """What a job would need. `streamed`: the weights would be read from disk layer by layer.

    `memory_bytes` are peaks, of measuring and of a healing, and `peak_memory_bytes` is the largest of them; null where
    it cannot be estimated. `seconds` are by phase.
    """

    layers: int
    parameters: int
    flops: int
    weight_bytes: int
    stack: list[StackLayer]
    reachable: ReachableRatios
    target: EstimatedTarget | None = None
    memory_bytes: dict[str, int | None]
    peak_memory_bytes: int | None
    available_memory_bytes: int
    streamed: bool
    seconds: dict[str, float]
    total_seconds: float
    speed: MachineSpeed
