"""The expected seconds of a job: its FLOPs and bytes, divided by the measured speed of a matrix product and of a copy.

The plan is not known yet; its first cut is assumed to be in the middle.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sglp_core.data.self_generated import CACHE_SHARE, UNMASKING_STEPS
from sglp_core.data.token_windows import MASKED_SHARE
from sglp_core.estimation.model_outline import Outline
from sglp_core.execution.available_memory import available_bytes
from sglp_core.healing.heal import JUDGEMENTS
from sglp_core.options import PROPOSALS, Calibration, Evaluation, Options
from sglp_core.planning.choose import COMPARED, search_budget
from sglp_core.planning.choose_after_repair import CHOSEN_PASSES, COMPARED_PASSES, FEWEST_WINDOWS, MOST_PREDICTIONS
from sglp_core.planning.harm import SAMPLES_AT_ONCE, WINDOWS_AT_ONCE
from sglp_core.repair.named_repairs import combinations
from sglp_core.tasks import JUDGED_SHARE, LANGUAGE_MODELS, WHOLE_SAMPLES

TIMED_SECONDS = 0.3
PRODUCT_SIZE = 1024
COPIED_BYTES = 2**27
# Importing the libraries, in the process of the job and again in the one that verifies and times the artifact.
IMPORT_SECONDS = 6.0
# One forward pass over the calibration data, and a backward pass that costs two.
ANALYSIS_PASSES = 3


@dataclass(frozen=True)
class Speed:
    """The measured speed of this machine: `flops_per_second` in a matrix product, `bytes_per_second` in a copy."""

    flops_per_second: float
    bytes_per_second: float


def measure_speed(dtype: torch.dtype) -> Speed:
    """Time a matrix product in the weights' type and a copy of memory, on the device that jobs use."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.ones(PRODUCT_SIZE, PRODUCT_SIZE, dtype=dtype, device=device) for _ in range(2))
    copied = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
    return Speed(
        2 * PRODUCT_SIZE**3 / _seconds_each(lambda: left @ right),
        2 * COPIED_BYTES / _seconds_each(copied.clone),
    )


def expected_seconds(outline: Outline, removed: int, options: Options, speed: Speed) -> dict[str, float]:
    """Expected seconds of each phase that takes long."""
    stack, method = outline.stack, options.method
    calibration, evaluation = options.calibration, options.evaluation
    window = stack.total_flops / speed.flops_per_second
    judged = evaluation.samples
    at_once = SAMPLES_AT_ONCE if outline.task in WHOLE_SAMPLES else WINDOWS_AT_ONCE
    parts = -(-calibration.samples // at_once)
    searches = method.importance == PROPOSALS
    part = window * calibration.samples / parts
    plans = 1 + (len(COMPARED) if evaluation.controls else 0)
    repairs = bool(combinations(method.repair)) and isinstance(outline.stack.path, str)
    # Of the dense model and of every plan, and at the exit the judged windows.
    repaired = calibration.samples * (1 + plans * (1 + 1 / JUDGED_SHARE)) if repairs else 0
    compared = COMPARED_PASSES * _compared_windows(outline, calibration) if repairs and searches else 0.0
    spared = CHOSEN_PASSES + compared / calibration.samples if compared else 0.0
    trials = search_budget(len(stack), removed, parts, spared) if searches else 0
    variants = 1 + plans * (2 if repairs else 1)
    loading = outline.weight_bytes / speed.bytes_per_second
    healed = min(window * _healed(outline, removed, options), options.healing.max_seconds or math.inf)
    healing = {"healing": healed} if options.healing.trains else {}
    return {
        "opening": IMPORT_SECONDS + loading,
        "calibrating": _writing(outline, calibration, evaluation, speed) if calibration.source == "self" else 0.0,
        "measuring": ANALYSIS_PASSES * calibration.samples * window,
        # An upper bound: a trial skips layers, and shares those before the first of them with the dense model.
        "planning": trials * part + window * compared,
        "repairing": window * repaired,
        **healing,
        "evaluating": variants * judged * window,
        "verifying": IMPORT_SECONDS + 4 * loading,
    }


def _healed(outline: Outline, removed: int, options: Options) -> float:
    """Forward passes of the dense model over one sample that a healing costs; an upper bound, as a backward pass ends
    where nothing before is trained."""
    healing, calibration = options.healing, options.calibration
    inside = sum(layer.flops for layer in outline.stack.layers) / outline.stack.total_flops
    student = 1 - inside * removed / len(outline.stack)
    size = healing.batch_size or calibration.batch_size
    # Epochs over other data are not estimated: how much there is of it is not known.
    steps = healing.steps_on(calibration.samples - calibration.samples // JUDGED_SHARE, size)
    a_judgement = calibration.samples / JUDGED_SHARE * (1 + student)
    return steps * size * (3 * student + (healing.alpha > 0)) + (1 + min(steps, JUDGEMENTS)) * a_judgement


def _writing(outline: Outline, calibration: Calibration, evaluation: Evaluation, speed: Speed) -> float:
    """Seconds that the model needs to write its calibration text; only language models write one."""
    if outline.task not in LANGUAGE_MODELS:
        return 0.0
    window = outline.stack.total_flops / speed.flops_per_second
    written = calibration.samples + (evaluation.samples if evaluation.source == "held_out" else 0)
    if outline.task == "masked_lm":
        return UNMASKING_STEPS * written * window
    config, length = outline.config.get_text_config(), calibration.sequence_length
    # The attention of every layer keeps a key and a value for every token; states of other layers are smaller.
    value_bytes = outline.weight_bytes / outline.stack.total_parameters
    kept: float = 2 * len(outline.stack) * config.hidden_size * value_bytes
    rows = max(1, int(CACHE_SHARE * (available_bytes() - outline.weight_bytes) / (length * kept)))
    step = outline.weight_bytes / speed.bytes_per_second
    # Every step reads the weights once for a batch, and the keys and values of the tokens before.
    reading = -(-written // rows) * length * step + written * length**2 / 2 * kept / speed.bytes_per_second
    return written * window + reading


def _compared_windows(outline: Outline, calibration: Calibration) -> int:
    """The windows that proposals are repaired and compared on."""
    length = calibration.sequence_length
    of_text = {"causal_lm": length, "masked_lm": MASKED_SHARE * length, "token_classification": length}
    of_sample = {"question_answering": 2, "multi_label_classification": getattr(outline.config, "num_labels", 1)}
    predictions = (of_text | of_sample).get(outline.task, 1)
    return min(calibration.samples, max(FEWEST_WINDOWS, int(MOST_PREDICTIONS / predictions)))


def _seconds_each(work: Callable[[], Any]) -> float:
    """Mean time of repeated calls, the first of which does not count."""
    work()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < TIMED_SECONDS:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        count += 1
    return (time.perf_counter() - begin) / count
