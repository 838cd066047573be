"""`JobSpec`: what was asked for, the same object in HTTP, database and worker. Unknown fields are refused."""

import math
import re
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic.config import JsonDict

from jobs.locations.destinations import check_output
from jobs.locations.uris import DATA_SCHEMES, MODEL_SCHEMES, BadURI, check_form
from jobs.spec.part import Part
from jobs.spec.targets import PlanTargetSpec, QualityTargetSpec, TargetSpec

Importance = Literal[
    "proposals", "grad_norm", "block_influence", "taylor", "first_order", "angular", "last_layers", "random"
]  # fmt: skip
GPU_CLASS = r"^[a-z0-9][a-z0-9_-]{0,62}$"
MAX_DEPTH = 10
UNSTORABLE = re.compile("[\\0\ud800-\udfff]")
ModelURI = Annotated[str, Field(max_length=2048), AfterValidator(lambda uri: check_form(uri, MODEL_SCHEMES))]


def _data_source(word: str) -> AfterValidator:
    def check(source: str) -> str:
        if source == word:
            return source
        try:
            return check_form(source, DATA_SCHEMES)
        except BadURI as error:
            raise BadURI(f"must be {word!r} or a URI; a URI {error}") from None

    return AfterValidator(check)


def _storable(metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """JSON that both databases store and every client reads back."""
    _check_storable(metadata, MAX_DEPTH)
    return metadata


def _check_storable(value: JsonValue, levels: int) -> None:
    if levels < 0:
        raise ValueError(f"must not be nested deeper than {MAX_DEPTH}")
    if isinstance(value, str) and UNSTORABLE.search(value):
        raise ValueError("must have neither NUL nor half of a surrogate pair in a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must have only finite numbers")
    if isinstance(value, dict):
        for name, each in value.items():
            _check_storable(name, levels)
            _check_storable(each, levels - 1)
    if isinstance(value, list):
        for each in value:
            _check_storable(each, levels - 1)


class ModelSource(Part):
    """Where the model comes from: `hf://organisation/name@revision`, `file://` below the service's roots, `upload://`
    followed by the id of an upload, or `s3://`, `gs://`, `az://` or `https://` in one of the service's places.

    It names a folder of the Hugging Face form (config.json, safetensors weights, tokenizer), or one `.gguf` file.
    """

    uri: ModelURI
    revision: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\w./-]+$")] | None = None

    @model_validator(mode="after")
    def _one_revision_of_a_hub_model(self) -> Self:
        if self.revision is not None and (not self.uri.startswith("hf://") or "@" in self.uri):
            raise ValueError("revision goes with hf://organisation/name that names none itself")
        return self


class MethodSpec(Part):
    """How layers are compared, grouped and scored; `protected` layers stay (by default the first and the last).

    With `importance: proposals` every criterion proposes a plan and the model says which one harms it least;
    `grad_norm` is the paper's rule; `last_layers` and `random` are controls. `repair` folds what the removed layers
    did into weights that stay (or re-estimates batch norms), and is kept where held-out calibration data improves.
    """

    segments: Annotated[int, Field(ge=1, strict=True)] | Literal["auto"] = "auto"
    feature: Literal["rows", "row_sums"] = "rows"
    importance: Importance = "proposals"
    estimator: Literal["unbiased", "biased"] = "unbiased"
    kernel: Literal["linear", "rbf"] = "linear"
    repair: Literal["none", "compensate", "least_squares", "refit", "batch_norm", "auto"] = "auto"
    protected: Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(max_length=1000)] | None = None


class CalibrationSpec(Part):
    """What the method measures on: text the model writes itself (`self`), a file or folder, an upload, or one file
    elsewhere.

    Language models take `samples` windows of `sequence_length` tokens of a `.txt`, `.jsonl` or `.parquet` file, models
    of texts with another head `samples` documents of one, each cut at so many tokens and labelled by the model itself;
    image classifiers `samples` images of a folder of class folders, a `.zip` of one, or a `.parquet` file.
    """

    source: Annotated[str, Field(max_length=2048), _data_source("self")] = "self"
    samples: Annotated[int, Field(ge=1, le=4096, strict=True)] = 64
    sequence_length: Annotated[int, Field(ge=8, le=8192, strict=True)] = 256
    batch_size: Annotated[int, Field(ge=1, le=256, strict=True)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 0


class EvaluationSpec(Part):
    """What before and after are compared on: samples the plan never saw (`held_out`), or a file or folder as for
    calibration.
    """

    source: Annotated[str, Field(max_length=2048), _data_source("held_out")] = "held_out"
    samples: Annotated[int, Field(ge=1, le=4096, strict=True)] = 16
    controls: Annotated[bool, Field(strict=True)] = True


class HealingSpec(Part):
    """A fine-tuning after the cut: `steps` of `batch_size` samples each, by default as many as a calibration batch
    has, or `epochs` over all samples (neither: none). The `source` is the calibration data (`calibration`), or a file
    or folder as for calibration.

    `trained` are the layers next to the cuts and what follows the stack (`neighbours`), an update of low rank for
    every linear layer that stays, merged into it at the end (`lora`), or everything that stays, with batch norms in
    training mode (`all`). The loss is `alpha` times the divergence from the dense model, both softened by
    `temperature`, and otherwise the cross-entropy with the labels, smoothed by `label_smoothing`. `learning_rate` is
    the highest, by default one that suits what is trained; `sgd` has a momentum of 0.9. `crop_and_flip` moves and
    mirrors images at random; `mixed` computes in bfloat16 what a step can, which is faster where the hardware has it.
    With `max_seconds` there are fewer steps where there is no time for all. What makes held-out calibration data worse
    is not kept.
    """

    steps: Annotated[int, Field(ge=0, le=100_000, strict=True)] = 0
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    trained: Literal["neighbours", "lora", "all"] = "neighbours"
    source: Annotated[str, Field(max_length=2048), _data_source("calibration")] = "calibration"
    batch_size: Annotated[int, Field(ge=1, le=4096, strict=True)] | None = None
    augmentation: Literal["none", "crop_and_flip"] = "none"
    precision: Literal["full", "mixed"] = "full"
    epochs: Annotated[int, Field(ge=0, le=10_000, strict=True)] = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    temperature: Annotated[float, Field(ge=0.1, le=100)] = 1.0
    label_smoothing: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    max_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps and self.epochs:
            raise ValueError("give steps or epochs, not both")
        return self


class OutputSpec(Part):
    """Where the result goes beside the service's own store: `uri` is a bucket, a folder or a repository on a hub
    (`hf://organisation/name`) that the service may write to.

    Its tensors keep their types (`dtype`). The files lie below `uri` as artifacts are called, and `manifest.json` is
    written last: it says that all are there. On a hub all is one commit, the model at the root and the rest in `sglp/`.
    """

    dtype: Literal["keep"] = "keep"
    uri: Annotated[str, Field(max_length=2048), AfterValidator(check_output)] | None = None


def _describe_null(schema: JsonDict) -> None:
    """One schema for requests and answers. It has no default, which generators of clients do not support in a union."""
    del schema["default"]
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, {"type": "null"}]


NullIsDefault = BeforeValidator(lambda value: {} if value is None else value)
EXAMPLES: list[JsonValue] = [
    {
        "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
        "target": {"kind": "parameters", "ratio": 0.25},
        "metadata": {"pipeline": "nightly"},
    },
    {"mode": "analyze", "model": {"uri": "file:///models/mine"}, "calibration": {"source": "file:///models/text.txt"}},
    {"mode": "estimate", "model": {"uri": "file:///models/mine"}},
]


class JobSpec(Part):
    """A request for one job. Only `model.uri` and, to compress or sweep, `target` are required.

    `mode` says how far to go: `estimate` reads no weights and estimates what a job would need, `analyze` measures,
    `sweep` also evaluates a plan for each of several ratios, `compress` also removes layers and writes the model.
    `gpu_class` is one of those that the service's operator names: which workers may take the job.
    Of a tenant's own waiting jobs those of higher `priority` start first; others' are not affected.
    """

    model_config = ConfigDict(json_schema_extra={"examples": EXAMPLES})

    mode: Literal["compress", "analyze", "sweep", "estimate"] = "compress"
    model: ModelSource
    target: TargetSpec | None = None
    method: MethodSpec = MethodSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    healing: Annotated[HealingSpec, NullIsDefault, Field(json_schema_extra=_describe_null)] = HealingSpec()
    output: OutputSpec = OutputSpec()
    gpu_class: Annotated[str, Field(pattern=GPU_CLASS)] = "default"
    priority: Annotated[int, Field(ge=-100, le=100, strict=True)] = 0
    deadline_seconds: Annotated[int, Field(ge=1, le=30 * 86400, strict=True)] = 86400
    metadata: Annotated[dict[str, JsonValue], Field(max_length=50), AfterValidator(_storable)] = {}  # noqa: RUF012

    @model_validator(mode="after")
    def _target_fits_mode(self) -> Self:
        if self.mode in {"compress", "sweep"} and self.target is None:
            raise ValueError(f"a {self.mode} job needs a target")
        if self.mode == "analyze" and self.target is not None:
            raise ValueError("an analyze job removes nothing and takes no target")
        if self.mode == "estimate" and self.healing.epochs and self.healing.source != "calibration":
            raise ValueError("how many samples healing.source has is not known before it is read; give healing.steps")
        if self.mode == "estimate" and isinstance(self.target, QualityTargetSpec):
            raise ValueError(
                "what a quality budget allows is not known before the model has run; analyze or compress it"
            )
        if isinstance(self.target, PlanTargetSpec) and self.method.protected is not None:
            self.target.require_kept(self.method.protected)
        if self.target is not None and (self.mode == "sweep") != (self.target.kind == "sweep"):
            raise ValueError("mode sweep and a target of kind sweep go together, and neither with another")
        if (self.healing.steps or self.healing.epochs or self.healing.source != "calibration") and self.mode not in {
            "compress",
            "estimate",
        }:
            raise ValueError("only a compress job heals")
        return self

    def uris(self) -> dict[str, str]:
        """JSON pointer → URI of everything the job would read."""
        named = {
            "/model/uri": self.model.uri,
            "/calibration/source": self.calibration.source,
            "/evaluation/source": self.evaluation.source,
            "/healing/source": self.healing.source,
        }
        return {pointer: uri for pointer, uri in named.items() if "://" in uri}
