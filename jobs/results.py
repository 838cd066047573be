"""The result of a job, by its mode.

The worker stores what the method reports, and system tests compare the method's reports with these types
(`tests/described.py`). Rows of an older version may lack fields or have others, so rows are not checked when read.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, JsonValue
from typing_extensions import TypeAliasType

from jobs.progress import Document, Layers, Ratio


class Comparison(Document):
    """One metric of the model before and after; null where it is not finite."""

    metric: str
    before: int | float | None
    after: int | float | None
    unit: str


class Quality(Document):
    """Quality on held-out data; null where a figure is not finite.

    `perplexity` is exp of the mean loss, `accuracy` the share of correct positions, `agreement` the share of positions
    with the answer of the dense model, `kl` the mean KL(dense ‖ pruned) in nats.
    """

    perplexity: float | None
    accuracy: Ratio | None
    agreement: Ratio | None
    kl: float | None


class Control(Quality):
    """The plan (`sglp`) or a control that removes as many layers: as cut, and after the same repair.

    `repaired` is null where the repair changed nothing. `beats_plan` says whether the perplexity after the repair is
    lower than the plan's. Controls are not healed, so healing is left out here.
    """

    name: str
    repaired: Quality | None
    removed_layers: Layers
    beats_plan: bool


class Verification(Document):
    """The written model against the planned one, in a fresh process; the differences are relative to the largest logit.

    `cached_decoding_equal` is null for models that do not generate; `other_layers` are layers whose configuration
    changed.
    """

    passed: bool
    missing: list[str]
    unexpected: list[str]
    reload_difference: float
    bypass_difference: float
    tolerance: float
    cached_decoding_equal: bool | None
    other_layers: Layers


class EvaluationData(Document):
    """The held-out data that quality was measured on."""

    source: str
    samples: int
    controls: bool
    description: str
    digest: str


class BudgetCheck(Document):
    """The metric of the dense and of the pruned model, and the loss between them; null where it is not finite."""

    dense: float
    value: float | None
    drop: float | None


class BudgetTrial(Document):
    """A plan that the search tried."""

    layers_removed: int
    removed_layers: Layers
    value: float | None
    drop: float | None


class BudgetSearch(BudgetCheck):
    """The plan that the search chose, judged on `samples` of the calibration data."""

    samples: int
    layers_removed: int
    removed_layers: Layers


class BudgetVerification(BudgetCheck):
    """The same plan on the held-out data; `within` says whether the loss is at most `max_drop` there too."""

    within: bool


class QualityBudget(Document):
    """How a target of kind `quality` was met."""

    metric: Literal["perplexity", "accuracy", "agreement"]
    max_drop: float
    search: BudgetSearch
    verified: BudgetVerification
    tried: list[BudgetTrial]


class PushedFile(Document):
    """A file at the place that `output.uri` names."""

    name: str
    size_bytes: int
    sha256: str


class Pushed(Document):
    """Where the result was written beside the service's own store; `commit` on a model hub."""

    uri: str
    manifest: str
    files: list[PushedFile]
    commit: str | None = None


class _Result(Document):
    output: Pushed | None = None


class CompressResult(_Result):
    """The result of a `compress` job: the model before and after, the controls, and the proof that it loads."""

    table: list[Comparison]
    controls: list[Control]
    verification: Verification
    evaluation: EvaluationData
    quality_target: QualityBudget | None = None


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


class SweepResult(_Result):
    """The result of a `sweep` job."""

    sweep: Sweep
    evaluation: EvaluationData


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


class EstimateResult(_Result):
    """The result of an `estimate` job."""

    estimate: Estimate


class AnalyzeResult(_Result):
    """The result of an `analyze` job: its findings are at the links `similarity`, `layers` and `report`."""


class LayerRow(Document):
    """A layer in the table of layers: its size, its segment, its score by every criterion, and the decision."""

    index: int
    name: str
    parameters: int
    flops: int
    segment: int
    importance: dict[str, float]
    removed: bool
    reason: str


class Similarity(Document):
    """The similarity of every two layers; null where it is not finite. `segments` are first and last layer of each.

    `loss_curve` is the loss of the segmentation by the number of segments.
    """

    layers: list[str]
    matrix: list[list[float | None]]
    segments: list[list[int]]
    loss_curve: list[float | None]
    estimator: str
    kernel: str
    n_samples: int
    sample_unit: str


# Last the one that needs no field: a reader that tries one after the other takes the first that fits.
JobResult = TypeAliasType("JobResult", CompressResult | SweepResult | EstimateResult | AnalyzeResult)

RESULTS: Mapping[str, type[BaseModel]] = {
    "compress": CompressResult,
    "sweep": SweepResult,
    "estimate": EstimateResult,
    "analyze": AnalyzeResult,
}
"""By the mode of the job."""

SUMMARY = tuple(dict.fromkeys(name for result in RESULTS.values() for name in result.model_fields))


def summary_of(report: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The part of a report that is the job's result; the whole report is an artifact."""
    return {name: report[name] for name in SUMMARY if name in report}
