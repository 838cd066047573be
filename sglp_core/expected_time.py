"""The seconds of a job, foretold: its FLOPs and bytes over what this machine reaches on a matrix product and a copy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sglp_core.calibration import WRITTEN_AT_ONCE, Calibration
from sglp_core.choosing import ANALYSIS_PASSES, CONTROLS, search_budget
from sglp_core.evaluation import Evaluation
from sglp_core.method import PROPOSALS, Method
from sglp_core.outline import Outline

TIMED_SECONDS = 0.3
PRODUCT_SIZE = 1024
COPIED_BYTES = 2**27
# Loading and running the artifact beside the dense model: one verified, two timed, each in a process of its own.
FRESH_PROCESSES = 3
FRESH_PROCESS_SECONDS = 6.0


@dataclass(frozen=True)
class Speed:
    """What this machine reaches: `flops_per_second` in a matrix product, `bytes_per_second` in a copy."""

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


def expected_seconds(
    outline: Outline,
    removed: int,
    method: Method,
    calibration: Calibration,
    evaluation: Evaluation,
    speed: Speed,
) -> dict[str, float]:
    """Expected seconds of each phase that takes long."""
    stack = outline.stack
    window = stack.total_flops / speed.flops_per_second
    judged = evaluation.samples
    written = calibration.samples + (judged if evaluation.source == "held_out" else 0)
    batches = -(-written // (WRITTEN_AT_ONCE * calibration.batch_size))
    step = outline.weight_bytes / speed.bytes_per_second
    writing = written * window + batches * calibration.sequence_length * step
    parts = (
        calibration.samples if outline.task != "classification" else -(-calibration.samples // calibration.batch_size)
    )
    trials = search_budget(len(stack), removed, parts) if method.importance == PROPOSALS else 0
    part = window * calibration.samples / parts
    variants = 3 + (len(CONTROLS) if evaluation.controls else 0)
    return {
        "calibrating": writing if calibration.source == "self" else 0.0,
        "measuring": ANALYSIS_PASSES * calibration.samples * window,
        # At most: a trial leaves out layers, and shares those before the first of them with the dense model.
        "planning": trials * part,
        "evaluating": variants * judged * window,
        "verifying": FRESH_PROCESSES * FRESH_PROCESS_SECONDS + 4 * outline.weight_bytes / speed.bytes_per_second,
    }


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
