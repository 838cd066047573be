"""What a job ran on: the model and where its weights lay, the calibration and held-out data, and the analysis."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from sglp_core.analysis.cache import Origin
from sglp_core.analysis.result import Analysis
from sglp_core.checkpoints.carried_files import model_files
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.evaluation.footprint import peak_resident_bytes
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.source import Source
from sglp_core.options import Calibration, Evaluation
from sglp_core.structure.notes import Note

# As many names show what kind of tensors they are.
NAMES_OF_IGNORED = 10
NAMES_OF_FILES = 50


@dataclass(frozen=True)
class IgnoredTensors:
    """Stored tensors that the model's class has no place for: they are not loaded, and not written."""

    count: int
    """How many there are."""
    names: tuple[str, ...]
    """The names of the first, sorted."""


@dataclass(frozen=True)
class ModelSection:
    """The model that was read."""

    origin: str
    """The model as the user named it: the name of its folder or file, or its repository on a hub."""
    revision: str | None
    """The commit of a model on a hub; null for local files."""
    sha256: str
    """SHA-256 over the names and contents of its configuration and weight files."""
    format: str
    """The format of its weights: `safetensors` or `gguf`."""
    class_name: str = field(metadata={"alias": "class"})
    """The class that it is loaded with."""
    licence: str | None
    """The licence that its model card names; null where it names none."""
    ignored_tensors: IgnoredTensors
    """Stored tensors that its class has no place for."""
    notes: tuple[Note, ...]
    """What was decided when it was opened, where its files could be meant in another way."""


@dataclass(frozen=True)
class FilesSection:
    """What became of the files of the original, by their names below its folder."""

    carried: tuple[str, ...]
    """Copied unchanged: tokenizer or processor, and licence."""
    rewritten: tuple[str, ...]
    """Written for the smaller model: weights, configurations, model card."""
    left_behind: tuple[str, ...]
    """The first of the others, sorted."""
    left_behind_count: int
    """How many others there are."""


@dataclass(frozen=True)
class CalibrationSection:
    """The calibration data: options, and which data they led to."""

    source: str
    """`self` for text that the model wrote, otherwise a path or URI."""
    samples: int
    """The number of samples asked for: token windows, texts or images."""
    sequence_length: int
    """Tokens a window or text; without meaning for images."""
    batch_size: int
    """Samples a forward pass; fewer than asked for where the device had no room for them."""
    seed: int
    """Everything drawn at random is drawn from this seed."""
    digest: str
    """SHA-256 of the samples."""


@dataclass(frozen=True)
class EvaluationSection:
    """The held-out data: options, and which data they led to."""

    source: str
    """`held_out` for samples of the calibration source that were not measured, otherwise a path or URI."""
    samples: int
    """The number of samples asked for."""
    controls: bool
    """Whether the plan is compared with the controls."""
    description: str
    """Number and source of the samples, in words."""
    digest: str | None
    """SHA-256 of the samples."""


@dataclass(frozen=True)
class AnalysisSection:
    """Similarity of the layers, and the segments found in it. Layers are numbered from 0."""

    key: str
    """SHA-256 of everything that the analysis depends on: model, data, options and code."""
    reused: bool
    """Whether an earlier job had measured it."""
    estimator: str
    """The estimator of CKA: `unbiased` or `biased`."""
    kernel: str
    """The kernel of CKA: `linear` or `rbf`."""
    n_samples: int
    """The number of samples measured."""
    sample_unit: str
    """What one sample is, in the singular, such as `image`."""
    segments: tuple[tuple[int, int], ...]
    """First and last layer of every segment, both included."""
    loss_curve: tuple[float | None, ...]
    """Entry k - 1 is the least segmentation loss with k segments; null where the model has more than k stages."""
    sequence_length: int
    """Tokens a sample."""


@dataclass(frozen=True)
class PlacementSection:
    """Where the weights lay, and what computed with them. Peaks are those of the process until the report."""

    weights: Literal["device", "memory", "disk"]
    """`device`: all on the device that computes; else brought to it layer by layer, from CPU memory or from disk."""
    device: str
    """The type of the device that computed, such as `cpu` or `cuda`."""
    stored_type: str
    """The type of most weights as they are stored."""
    computing_type: str
    """The type that they were computed in."""
    weights_read: float | None
    """How often all weights were brought to the device, until the result was written; null where they were there."""
    peak_memory_bytes: int
    """The most CPU memory that was resident, in bytes, with pages of mapped files."""
    peak_device_memory_bytes: int | None
    """The most memory of the device that was allocated, in bytes; null where the device is the CPU."""


def model_section(loaded: LoadedModel) -> ModelSection:
    fetched, source = loaded.fetched, loaded.source
    ignored = loaded.tensors.ignored
    return ModelSection(
        fetched.origin,
        fetched.revision,
        source.digest,
        source.format,
        loaded.class_name,
        source.card.licence,
        IgnoredTensors(len(ignored), ignored[:NAMES_OF_IGNORED]),
        loaded.notes,
    )


def files_section(source: Source) -> FilesSection:
    files = model_files(source.directory)
    left_behind = files.left_behind
    return FilesSection(files.carried, files.rewritten, left_behind[:NAMES_OF_FILES], len(left_behind))


def calibration_section(calibration: Calibration, data: CalibrationData) -> CalibrationSection:
    used = replace(calibration, batch_size=data.batch_size)
    return CalibrationSection(**vars(used), digest=data.calibration_digest)


def evaluation_section(evaluation: Evaluation, data: CalibrationData) -> EvaluationSection:
    return EvaluationSection(**vars(evaluation), description=data.description, digest=data.evaluation_digest)


def analysis_section(analysis: Analysis, origin: Origin) -> AnalysisSection:
    return AnalysisSection(
        key=origin.key,
        reused=origin.reused,
        estimator=analysis.estimator,
        kernel=analysis.kernel,
        n_samples=analysis.n_samples,
        sample_unit=analysis.sample_unit,
        segments=tuple(segment.first_and_last for segment in analysis.segmentation.segments),
        loss_curve=analysis.segmentation.loss_curve,
        sequence_length=analysis.stack.sequence_length,
    )


def placement_section(model: LayeredModel) -> PlacementSection:
    """The section as it is now."""
    weights, device = model.weights, model.device
    return PlacementSection(
        weights="device" if weights.resident else "memory" if weights.in_memory else "disk",
        device=device.type,
        stored_type=_name(weights.as_stored().dtype),
        computing_type=_name(weights.dtype),
        weights_read=None if weights.resident else round(weights.bytes_onloaded / weights.total_bytes, 1),
        peak_memory_bytes=peak_resident_bytes(),
        peak_device_memory_bytes=None if device.type == "cpu" else torch.accelerator.max_memory_allocated(device),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
