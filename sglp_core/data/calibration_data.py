"""Calibration and held-out data for one job: which samples the plan may see, and which it never sees."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

from torch import Tensor

from sglp_core.checkpoints.model_folder import local_path
from sglp_core.data.images import read_images
from sglp_core.data.labelled_texts import read_labelled_texts
from sglp_core.data.self_generated import self_written_windows
from sglp_core.data.token_windows import text_windows
from sglp_core.data.window_cache import find_or_write
from sglp_core.errors import BadCalibration
from sglp_core.loading.loaded_model import Opened
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Calibration, Evaluation
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
class Data:
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

    def calibration(self, opened: Opened) -> list[Batch]:
        return list(self.measured.batches(opened.task, opened.processor, self.batch_size, self.seed))

    def evaluation(self, opened: Opened) -> list[Batch]:
        assert self.held_out is not None
        return list(self.held_out.batches(opened.task, opened.processor, self.batch_size, self.seed + 1))


def prepare(
    opened: Opened,
    calibration: Calibration,
    evaluation: Evaluation | None,
    roots: Sequence[Path] | None,
    cache: Path,
    report: Any,
    local: Mapping[str, Path] = MappingProxyType({}),
) -> Data:
    """Calibration samples, and held-out ones where an evaluation is wanted. Raises `BadCalibration`.

    `local` has the files of sources that the caller fetched. What the model writes itself is kept in `cache` and found
    there again.
    """
    if evaluation and _is_same(evaluation.source, calibration.source, roots, local):
        # Drawn in the same order from the same samples, they would be those that were measured.
        evaluation = replace(evaluation, source="held_out")
    wanted = evaluation.samples if evaluation and evaluation.source == "held_out" else 0
    samples = _samples(
        opened, calibration, calibration.source, calibration.samples + wanted, roots, cache, report, local
    )
    if len(samples) <= wanted:
        # A short source still leaves half of its samples to judge on.
        wanted = len(samples) // 2
    measured, held_out = samples.split(len(samples) - wanted)
    description = f"{len(held_out)} {held_out.noun} of the calibration source that were not measured"
    if evaluation and evaluation.source == "self":
        raise BadCalibration("a model is not judged on what it wrote itself; give a file, or 'held_out'")
    if evaluation and evaluation.source != "held_out":
        held_out = _samples(opened, calibration, evaluation.source, evaluation.samples, roots, cache, report, local)
        description = f"{len(held_out)} {held_out.noun} of {Path(evaluation.source).name}"
    if not len(measured) or (evaluation and not len(held_out)):
        raise BadCalibration(
            f"{Path(calibration.source).name} gives {len(samples)} {samples.noun}, too little for both measuring and "
            "judging; give more, or ask for a shorter sequence_length (blank lines part the documents of a .txt)"
        )
    return Data(measured, held_out if evaluation else None, calibration.batch_size, calibration.seed, description)


def _is_same(one: str, other: str, roots: Sequence[Path] | None, local: Mapping[str, Path]) -> bool:
    """Whether two sources are one file or folder, or files of the same bytes."""
    if {one, other} & {"self", "held_out"}:
        return False
    first, second = (
        (local[source] if source in local else local_path(source, roots)).resolve() for source in (one, other)
    )
    if first == second:
        return True
    are_alike = first.is_file() and second.is_file() and first.stat().st_size == second.stat().st_size
    return are_alike and len({_sha256(first), _sha256(second)}) == 1


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _samples(
    opened: Opened,
    calibration: Calibration,
    source: str,
    count: int,
    roots: Sequence[Path] | None,
    cache: Path,
    report: Any,
    local: Mapping[str, Path] = MappingProxyType({}),
) -> Samples:
    samples: Samples
    if source in local:
        source, roots = str(local[source]), None
    if opened.task == "image_classification":
        if source == "self":
            raise BadCalibration(
                "an image model cannot write its own calibration data; give a folder of class folders, a .zip of one, "
                "or a .parquet file with images"
            )
        samples = read_images(source, opened.model, opened.processor, count, calibration.seed, roots)
    elif opened.task == "text_classification":
        if source == "self" or isinstance(opened.model, StreamedModel):
            raise BadCalibration(
                "a classifier of texts cannot write its own calibration data, and must fit in memory to label it; give "
                "texts as a .txt, .jsonl or .parquet file"
            )
        length = calibration.sequence_length
        samples = read_labelled_texts(source, opened.model, opened.processor, count, length, calibration.seed, roots)
    elif source == "self":
        if isinstance(opened.model, StreamedModel):
            raise BadCalibration(
                "the model does not fit in memory, and writing text would read all its weights from disk for every "
                "token; give calibration text as a .txt, .jsonl or .parquet file"
            )
        samples = find_or_write(
            opened,
            calibration,
            count,
            cache,
            lambda: self_written_windows(
                opened.model, opened.processor, opened.task, calibration, count, calibration.seed, report
            ),
        )
    else:
        samples = text_windows(source, opened.processor, count, calibration.sequence_length, calibration.seed, roots)
    report(len(samples), len(samples), samples.noun)
    return samples
