"""Prepare the samples of one job: calibration samples that the plan is based on, and held-out samples to judge it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol, Self

import torch
from torch import Tensor

from sglp_core.checkpoints.model_folder import local_path, sha256_of
from sglp_core.data.images import read_images
from sglp_core.data.labelled_texts import read_labelled_texts
from sglp_core.data.self_generated import UNMASKING_STEPS, self_generated_windows
from sglp_core.data.token_windows import text_windows
from sglp_core.data.window_cache import find_or_generate
from sglp_core.errors import BadCalibration
from sglp_core.execution.available_memory import available_bytes
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.processor import image_shape
from sglp_core.options import Calibration, Evaluation, Healing
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch, Task

# The share of the free memory that samples to train on may take, which exist twice while they are put together.
TRAINED_SHARE = 0.2


class Samples(Protocol):
    """Token windows, texts or images, in the order in which they were drawn.

    `noun` names them in reports, `digest` is the sha256 of their content, `probe` a small input for comparing logits,
    and `split(n)` gives the first n and the others.
    """

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
    """Samples for the analysis, held-out ones for the evaluation, and those that healing has for itself, if any.

    `description` names the source of the held-out ones.
    """

    measured: Samples
    held_out: Samples | None
    batch_size: int
    seed: int
    description: str
    healing: Samples | None = None
    _calibration: list[Batch] = field(default_factory=list, init=False, repr=False, compare=False)

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
        """The batches that are measured; the same objects each time, so that what was computed of them is kept."""
        if not self._calibration:
            self._calibration.extend(self.measured.batches(loaded.task, loaded.processor, self.batch_size, self.seed))
        return self._calibration

    def training(self, loaded: LoadedModel) -> list[Batch]:
        """The batches that healing has for itself."""
        if self.healing is None:
            return []
        return list(self.healing.batches(loaded.task, loaded.processor, self.batch_size, self.seed + 2))

    def evaluation(self, loaded: LoadedModel) -> list[Batch]:
        assert self.held_out is not None
        return list(self.held_out.batches(loaded.task, loaded.processor, self.batch_size, self.seed + 1))


def prepare(
    loaded: LoadedModel,
    calibration: Calibration,
    evaluation: Evaluation | None,
    context: RunContext,
    healing: Healing = Healing(),
) -> CalibrationData:
    """Read or generate calibration samples, held-out ones where there is an evaluation, and those of a healing.

    Text that the model generates is cached in the context's cache. Raises `BadCalibration`, and `SourceForbidden` for a
    source outside the context's roots.
    """
    if evaluation and _is_same(evaluation.source, calibration.source, context):
        # Read separately, the evaluation samples would be the calibration samples, drawn in the same order.
        evaluation = replace(evaluation, source="held_out")
    trained = 0
    if healing.source != "calibration":
        fitting = max(1, int(TRAINED_SHARE * available_bytes()) // _bytes_a_sample(loaded, calibration))
        needed = healing.steps * (healing.batch_size or calibration.batch_size)
        trained = fitting if healing.epochs else min(needed, fitting)
    if trained and evaluation and _is_same(healing.source, evaluation.source, context):
        raise BadCalibration(
            "healing.source is what evaluation.source is: nothing would be left that was not trained on"
        )
    shared = trained if trained and _is_same(healing.source, calibration.source, context) else 0
    reserved = evaluation.samples if evaluation and evaluation.source == "held_out" else 0
    drawn = _samples(loaded, calibration, calibration.source, calibration.samples + reserved + shared, context)
    # In one draw, so that no sample is two of the three.
    samples, own = drawn.split(min(len(drawn), calibration.samples + reserved))
    if len(samples) <= reserved:
        # A short source still leaves half of its samples to judge on.
        reserved = len(samples) // 2
    measured, held_out = samples.split(len(samples) - reserved)
    description = f"{len(held_out)} {held_out.noun} of the calibration source that were not measured"
    if evaluation and evaluation.source == "self":
        raise BadCalibration("evaluation.source cannot be 'self'; give a file, or 'held_out'")
    if evaluation and evaluation.source != "held_out":
        held_out = _samples(loaded, calibration, evaluation.source, evaluation.samples, context)
        description = f"{len(held_out)} {held_out.noun} of {Path(evaluation.source).name}"
    if trained and not shared:
        own = _samples(loaded, calibration, healing.source, trained, context)
    if not len(measured) or (evaluation and not len(held_out)):
        raise BadCalibration(
            f"{Path(calibration.source).name} gives {len(samples)} {samples.noun}, too few for both calibration and "
            "evaluation; give more, or a shorter sequence_length (blank lines separate the documents of a .txt)"
        )
    if trained and not len(own):
        raise BadCalibration(
            f"{Path(healing.source).name} gives {len(samples)} {samples.noun}, which calibration and evaluation need; "
            "name another healing.source, or fewer samples"
        )
    return CalibrationData(
        measured,
        held_out if evaluation else None,
        calibration.batch_size,
        calibration.seed,
        description,
        own if trained else None,
    )


def _bytes_a_sample(loaded: LoadedModel, calibration: Calibration) -> int:
    """What a sample takes in memory: token ids and their mask, or the numbers of an image."""
    if loaded.task != "image_classification":
        return 2 * torch.long.itemsize * calibration.sequence_length
    size: int = loaded.model.dtype.itemsize
    return size * math.prod(image_shape(loaded.processor))


def _is_same(one: str, other: str, context: RunContext) -> bool:
    """Whether two sources are the same file or folder, or files of equal content."""
    if {one, other} & {"self", "held_out", "calibration"}:
        return False
    local = context.local_files
    first, second = (
        (local[source] if source in local else local_path(source, context.roots)).resolve() for source in (one, other)
    )
    if first == second:
        return True
    same_size = first.is_file() and second.is_file() and first.stat().st_size == second.stat().st_size
    return same_size and sha256_of(first) == sha256_of(second)


def _samples(loaded: LoadedModel, calibration: Calibration, source: str, count: int, context: RunContext) -> Samples:
    roots, progress = context.roots, context.phase("calibrating")
    if source in context.local_files:
        source, roots = str(context.local_files[source]), None
    length, seed = calibration.sequence_length, calibration.seed
    samples: Samples
    if loaded.task == "image_classification":
        if source == "self":
            raise BadCalibration(
                "an image model cannot generate calibration data; give a folder of class folders, a .zip of one, or a "
                ".parquet file with images"
            )
        samples = read_images(source, loaded, loaded.processor, count, seed, roots)
    elif loaded.task == "text_classification":
        if source == "self":
            raise BadCalibration(
                "a text classifier cannot generate calibration data; give texts as a .txt, .jsonl or .parquet file"
            )
        samples = read_labelled_texts(local_path(source, roots), loaded, loaded.processor, count, length, seed)
    elif source == "self":
        if not loaded.weights.in_memory:
            _refuse_to_generate(loaded, calibration, count)
        samples = find_or_generate(
            loaded,
            calibration,
            count,
            context.cache,
            lambda: self_generated_windows(loaded, loaded.processor, calibration, count, progress),
        )
    else:
        samples = text_windows(source, loaded.processor, count, length, seed, roots)
    progress.start(len(samples), samples.noun, len(samples))
    return samples


def _refuse_to_generate(loaded: LoadedModel, calibration: Calibration, count: int) -> NoReturn:
    """Say how long reading all weights once for every step would take, by the time that one layer takes."""
    weights = loaded.weights
    before, begin = weights.bytes_onloaded, time.perf_counter()
    with weights.onloaded(0):
        bytes_a_second = (weights.bytes_onloaded - before) / (time.perf_counter() - begin)
    steps = calibration.sequence_length
    if loaded.task == "masked_lm":
        steps = UNMASKING_STEPS * -(-count // calibration.batch_size)
    minutes = steps * weights.total_bytes / bytes_a_second / 60
    raise BadCalibration(
        f"the model does not fit in memory; to generate text, its {weights.total_bytes / 1e9:,.1f} GB of weights would "
        f"be read from disk {steps:,} times, which takes at least {max(1, minutes):,.0f} min; give calibration text "
        "as a .txt, .jsonl or .parquet file"
    )
