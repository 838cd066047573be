"""Calibration and held-out data for one job: which samples the plan may see, and which it never sees."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor

from sglp_core.checkpoints.model_folder import local_path
from sglp_core.data.images import read_images
from sglp_core.data.labelled_texts import read_labelled_texts
from sglp_core.data.self_generated import self_written_windows
from sglp_core.data.token_windows import text_windows
from sglp_core.data.window_cache import find_or_write
from sglp_core.errors import BadCalibration
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Calibration, Evaluation
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch, Task


class Samples(Protocol):
    """What a model is measured and judged on: token windows, texts or images, in the order they were drawn."""

    @property
    def noun(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def probe(self) -> dict[str, Tensor]: ...
    def __len__(self) -> int: ...
    def split(self, first: int) -> tuple[Self, Self]: ...
    def batches(self, task: Task, processor: Any, batch_size: int, seed: int) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class CalibrationData:
    """Samples to measure on and samples to judge on; `description` says where the latter come from."""

    measured: Samples
    held_out: Samples | None
    batch_size: int
    seed: int
    description: str

    @property
    def calibration_digest(self) -> str:
        return self.measured.digest

    @property
    def evaluation_digest(self) -> str | None:
        return self.held_out.digest if self.held_out else None

    @property
    def probe(self) -> dict[str, Tensor]:
        """A small input for comparing logits."""
        return self.measured.probe

    def calibration(self, loaded: LoadedModel) -> list[Batch]:
        return list(self.measured.batches(loaded.task, loaded.processor, self.batch_size, self.seed))

    def evaluation(self, loaded: LoadedModel) -> list[Batch]:
        assert self.held_out is not None
        return list(self.held_out.batches(loaded.task, loaded.processor, self.batch_size, self.seed + 1))


def prepare(
    loaded: LoadedModel,
    calibration: Calibration,
    evaluation: Evaluation | None,
    context: RunContext,
) -> CalibrationData:
    """Calibration samples, and held-out ones where there is an evaluation. Raises `BadCalibration`.

    Text that the model writes itself is kept in the context's cache and found there by later runs.
    """
    if evaluation and _is_same(evaluation.source, calibration.source, context):
        # Drawn in the same order from the same samples, they would be those that were measured.
        evaluation = replace(evaluation, source="held_out")
    reserved = evaluation.samples if evaluation and evaluation.source == "held_out" else 0
    samples = _samples(loaded, calibration, calibration.source, calibration.samples + reserved, context)
    if len(samples) <= reserved:
        # A short source still leaves half of its samples to judge on.
        reserved = len(samples) // 2
    measured, held_out = samples.split(len(samples) - reserved)
    description = f"{len(held_out)} {held_out.noun} of the calibration source that were not measured"
    if evaluation and evaluation.source == "self":
        raise BadCalibration("a model is not judged on what it wrote itself; give a file, or 'held_out'")
    if evaluation and evaluation.source != "held_out":
        held_out = _samples(loaded, calibration, evaluation.source, evaluation.samples, context)
        description = f"{len(held_out)} {held_out.noun} of {Path(evaluation.source).name}"
    if not len(measured) or (evaluation and not len(held_out)):
        raise BadCalibration(
            f"{Path(calibration.source).name} gives {len(samples)} {samples.noun}, too little for both measuring and "
            "judging; give more, or ask for a shorter sequence_length (blank lines separate the documents of a .txt)"
        )
    return CalibrationData(
        measured, held_out if evaluation else None, calibration.batch_size, calibration.seed, description
    )


def _is_same(one: str, other: str, context: RunContext) -> bool:
    """Whether two sources are one file or folder, or files of the same bytes."""
    if {one, other} & {"self", "held_out"}:
        return False
    local = context.local_files
    first, second = (
        (local[source] if source in local else local_path(source, context.roots)).resolve() for source in (one, other)
    )
    if first == second:
        return True
    are_alike = first.is_file() and second.is_file() and first.stat().st_size == second.stat().st_size
    return are_alike and len({_sha256(first), _sha256(second)}) == 1


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _samples(loaded: LoadedModel, calibration: Calibration, source: str, count: int, context: RunContext) -> Samples:
    roots, progress = context.roots, context.phase("calibrating")
    if source in context.local_files:
        source, roots = str(context.local_files[source]), None
    length, seed = calibration.sequence_length, calibration.seed
    samples: Samples
    if loaded.task == "image_classification":
        if source == "self":
            raise BadCalibration(
                "an image model cannot write its own calibration data; give a folder of class folders, a .zip of one, "
                "or a .parquet file with images"
            )
        samples = read_images(source, loaded.model, loaded.processor, count, seed, roots)
    elif loaded.task == "text_classification":
        if source == "self" or isinstance(loaded.model, StreamedModel):
            raise BadCalibration(
                "a classifier of texts cannot write its own calibration data, and must fit in memory to label it; give "
                "texts as a .txt, .jsonl or .parquet file"
            )
        samples = read_labelled_texts(local_path(source, roots), loaded.model, loaded.processor, count, length, seed)
    elif source == "self":
        if isinstance(loaded.model, StreamedModel):
            raise BadCalibration(
                "the model does not fit in memory, and writing text would read all its weights from disk for every "
                "token; give calibration text as a .txt, .jsonl or .parquet file"
            )
        samples = find_or_write(
            loaded,
            calibration,
            count,
            context.cache,
            lambda: self_written_windows(loaded, loaded.processor, calibration, count, progress),
        )
    else:
        samples = text_windows(source, loaded.processor, count, length, seed, roots)
    progress.start(len(samples), samples.noun, len(samples))
    return samples
