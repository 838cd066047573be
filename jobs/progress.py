"""What a job shows while it runs: progress, what it reads, and its plan."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PHASES = frozenset(
    {
        "fetching", "opening", "calibrating", "measuring", "planning", "repairing", "pruning", "healing", "verifying",
        "evaluating", "publishing",
    }
)  # fmt: skip
"""What a job's process may be at; whatever else it says is no label of a metric."""

Ratio = Annotated[float, Field(ge=0, le=1)]
Layers = Annotated[list[int], Field(description="indices of layers, from 0")]


class Document(BaseModel):
    """JSON that the row of a job holds."""

    model_config = ConfigDict(frozen=True)


class Progress(Document):
    """How far the running phase is."""

    done: int
    total: int
    unit: str
    eta_seconds: int | None


class SourceFile(Document):
    """A file that was read from a store or an HTTPS host, with the validator (an ETag) that identified its content."""

    uri: str
    size_bytes: int | None
    validator: str | None
    version: str | None


class Resolved(Document):
    """What the job read and ran on: the model's files, its class, and the versions of the libraries."""

    model_sha256: str
    revision: str | None
    format: str
    model_class: Annotated[str, Field(alias="class")]
    versions: dict[str, str]
    sources: list[SourceFile] | None = None


class Plan(Document):
    """Which layers are removed. The ratios are fractions of the model's parameters, FLOPs or layers (`kind`).

    `reachable` is the largest ratio that any plan could remove; `achieved` is what this plan removes. `exact`: just
    `requested` was asked for, as a number of layers or layer by layer, and not at least that.
    """

    kind: Literal["parameters", "flops", "layers"]
    exact: bool = False
    requested: Ratio
    reachable: Ratio
    achieved: Ratio
    removed_layers: Layers
