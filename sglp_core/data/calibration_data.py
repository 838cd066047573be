"""Prepare the samples of one job: calibration samples that the plan is based on, and held-out samples to judge it."""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from sglp_core.checkpoints.limits import free_disk_bytes
from sglp_core.checkpoints.model_folder import local_path, sha256_of
from sglp_core.data.embedded_tokens import require_embedded
from sglp_core.data.images import read_images
from sglp_core.data.labelled_texts import read_labelled_texts
from sglp_core.data.samples import Samples
from sglp_core.data.self_generated import UNMASKING_STEPS, self_generated_windows
from sglp_core.data.token_windows import text_windows
from sglp_core.data.window_cache import find_or_generate
from sglp_core.errors import BadCalibration
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.processor import image_shape
from sglp_core.options import Calibration, Evaluation, Healing
from sglp_core.run_context import RunContext
from sglp_core.tasks import LANGUAGE_MODELS, Batch

# The share of the free disk that samples to train on may take; the rest is for hidden states and the result.
DISK_SHARE = 0.5
# A token to train on is in the text's stream of tokens, then in a window with its mask, then as input and label.
TOKEN_BYTES = torch.int.itemsize + 4 * torch.long.itemsize


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
        """The samples that healing has for itself, in mapped files: one batch, or none."""
        if self.healing is None:
            return []
        return [self.healing.to_train_on(loaded, self.batch_size, self.seed + 2)]

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

    Text that the model generates is cached in the context's cache. What is read of a source lies in mapped files.
    Raises `BadCalibration`, `InsufficientStorage`, and `SourceForbidden` for a source outside the context's roots.
    """
    if evaluation and _is_same(evaluation.source, calibration.source, context):
        # Read separately, the evaluation samples would be the calibration samples, drawn in the same order.
        evaluation = replace(evaluation, source="held_out")
    if evaluation and evaluation.source == "self":
        raise BadCalibration("evaluation.source cannot be 'self'; give a file, or 'held_out'")
    trained = _count_to_train_on(loaded, calibration, healing)
    if trained and evaluation and _is_same(healing.source, evaluation.source, context):
        raise BadCalibration(
            "healing.source is what evaluation.source is: nothing would be left that was not trained on"
        )
    shared = trained if trained and _is_same(healing.source, calibration.source, context) else 0
    reserved = evaluation.samples if evaluation and evaluation.source == "held_out" else 0
    measured, held_out, own = _draw_together(loaded, calibration, reserved, shared, context)
    description = f"{len(held_out)} {held_out.noun} of the calibration source that were not measured"
    if evaluation and evaluation.source != "held_out":
        held_out = _samples(loaded, calibration, evaluation.source, evaluation.samples, context)
        description = f"{len(held_out)} {held_out.noun} of {Path(evaluation.source).name}"
    if trained and not shared:
        own = _samples(loaded, calibration, healing.source, trained, context)
    return CalibrationData(
        measured,
        held_out if evaluation else None,
        calibration.batch_size,
        calibration.seed,
        description,
        own if trained else None,
    )


def _count_to_train_on(loaded: LoadedModel, calibration: Calibration, healing: Healing) -> int:
    """How many samples a healing draws of another source: what its steps need, and no more than have room."""
    if healing.source == "calibration":
        return 0
    size = TOKEN_BYTES * calibration.sequence_length
    if loaded.task == "image_classification":
        size = loaded.model.dtype.itemsize * math.prod(image_shape(loaded.processor))
    fitting = max(1, int(DISK_SHARE * free_disk_bytes(loaded.scratch)) // size)
    return fitting if healing.epochs else min(healing.steps * (healing.batch_size or calibration.batch_size), fitting)


def _draw_together(
    loaded: LoadedModel, calibration: Calibration, reserved: int, shared: int, context: RunContext
) -> tuple[Samples, Samples, Samples]:
    """Samples to measure, `reserved` held-out ones and `shared` ones to train on in one draw, so that none is two of
    the three; fewer of them where the source is short."""
    drawn = _samples(loaded, calibration, calibration.source, calibration.samples + reserved + shared, context)
    samples, own = drawn.split(min(len(drawn), calibration.samples + reserved))
    # A short source still leaves half of its samples to judge on.
    kept = reserved if len(samples) > reserved else len(samples) // 2
    if not len(samples) or (reserved and not kept):
        raise BadCalibration(
            f"{Path(calibration.source).name} gives {len(samples)} {samples.noun}, too few for both calibration and "
            "evaluation; give more, or a shorter sequence_length (blank lines separate the documents of a .txt)"
        )
    if shared and not len(own):
        raise BadCalibration(
            f"{Path(calibration.source).name} gives {len(samples)} {samples.noun}, which calibration and evaluation "
            "need; name another healing.source, or fewer samples"
        )
    measured, held_out = samples.split(len(samples) - kept)
    return measured, held_out, own


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
    elif loaded.task not in LANGUAGE_MODELS:
        if source == "self":
            raise BadCalibration(
                "only a language model can generate calibration data; give texts as a .txt, .jsonl or .parquet file"
            )
        if loaded.task == "text_regression" and calibration.batch_size == 1:
            raise BadCalibration("scores are compared with those of other texts; give a calibration.batch_size above 1")
        samples = read_labelled_texts(local_path(source, roots), loaded, loaded.processor, count, length, seed)
    elif source == "self":
        if not loaded.weights.in_memory:
            _refuse_to_generate(loaded, calibration, count)
        samples = find_or_generate(
            loaded,
            calibration,
            count,
            context.results("windows"),
            lambda: self_generated_windows(loaded, loaded.processor, calibration, count, progress),
        )
    else:
        samples = text_windows(local_path(source, roots), loaded.processor, count, length, seed, loaded.scratch)
        require_embedded(samples.input_ids, loaded.model, loaded.processor)
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
