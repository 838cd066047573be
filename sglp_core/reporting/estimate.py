"""An estimate: what a job would take and could reach."""

from dataclasses import dataclass, field

from sglp_core.options import TargetKind
from sglp_core.reporting.json_form import LEFT_OUT_IF_NONE
from sglp_core.structure.notes import Note


@dataclass(frozen=True)
class OutlinedModelSection:
    """The model, known by its configuration and tensor headers alone."""

    origin: str
    """The model as the user named it: the name of its folder or file, or its repository on a hub."""
    revision: str | None
    """The commit of a model on a hub; null for local files."""
    format: str
    """The format of its weights: `safetensors` or `gguf`."""
    class_name: str = field(metadata={"alias": "class"})
    """The class that it is loaded with."""
    dtype: str
    """The type of most weights, as safetensors names it."""
    notes: tuple[Note, ...]
    """What was decided when it was opened, where its files could be meant in another way."""


@dataclass(frozen=True)
class LayerSize:
    """One layer that a plan could remove."""

    index: int
    """Its number, from 0."""
    name: str
    """The name of its module."""
    parameters: int
    """Its number of parameters."""
    flops: int
    """FLOPs of one forward pass of one sample."""


@dataclass(frozen=True)
class ReachableRatio:
    """How much could be removed, as a fraction of the whole model."""

    largest: float
    """The most that any plan could remove: one segment a stage, and a layer of every kind stays."""
    smallest_layer: float
    """The fraction that the smallest removable layer makes up."""
    largest_layer: float
    """The fraction that the largest removable layer makes up."""


@dataclass(frozen=True)
class EstimatedTarget:
    """The target asked for, and whether a plan can reach it."""

    kind: TargetKind
    """What the ratio is a fraction of."""
    ratio: float
    """The fraction to remove."""
    reachable: bool
    """Whether a plan could remove that much."""
    exact: bool = False
    """Whether just that was asked for, as a number of layers or layer by layer, and not at least that."""


@dataclass(frozen=True)
class SpeedSection:
    """The measured speed of this machine, which the seconds are computed from."""

    flops_per_second: float
    """Reached in a matrix product."""
    bytes_per_second: float
    """Reached in a copy."""


@dataclass(frozen=True, kw_only=True)
class EstimateSection:
    """The model's size, what could be removed of it, and the memory and time of a job."""

    layers: int
    """The number of layers that a plan chooses from."""
    parameters: int
    """Parameters of the whole model."""
    flops: int
    """FLOPs of one forward pass of one sample."""
    weight_bytes: int
    """Bytes of the weights in memory."""
    stack: tuple[LayerSize, ...]
    """The layers, in order."""
    reachable: dict[TargetKind, ReachableRatio]
    """How much could be removed of each kind."""
    target: EstimatedTarget | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """The target; left out where none was asked for."""
    memory_bytes: dict[str, int | None]
    """Expected peak memory of measuring and of a healing, in bytes; null where it depends on the values that the model
    computes."""
    peak_memory_bytes: int | None
    """The largest of them; null where one is."""
    available_memory_bytes: int
    """Memory that the worker has free, in bytes."""
    streamed: bool
    """Whether the weights would stay on disk."""
    seconds: dict[str, float]
    """Expected seconds of each phase."""
    total_seconds: float
    """Their sum."""
    speed: SpeedSection
    """The measured speed of this machine."""
