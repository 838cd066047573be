"""Calibration and held-out data for one job: which windows the plan may see, and which it never sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sglp_core.calibration import Calibration, Windows, batches, self_written_windows, text_windows
from sglp_core.errors import BadCalibration
from sglp_core.evaluation import Evaluation
from sglp_core.objectives import Batch
from sglp_core.opening import Opened

PROBE_ROWS = 2
PROBE_TOKENS = 32


@dataclass(frozen=True)
class Data:
    """Windows to measure on and windows to judge on; `description` says where the latter come from."""

    measured: Windows
    held_out: Windows | None
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
        """A short input for comparing logits: the starts of two windows that carry no padding there."""
        ids = self.measured.input_ids[:PROBE_ROWS, :PROBE_TOKENS]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def calibration(self, opened: Opened) -> list[Batch]:
        return list(batches(self.measured, opened.task, opened.processor, self.batch_size, self.seed))

    def evaluation(self, opened: Opened) -> list[Batch]:
        assert self.held_out is not None
        return list(batches(self.held_out, opened.task, opened.processor, self.batch_size, self.seed + 1))


def prepare(
    opened: Opened,
    calibration: Calibration,
    evaluation: Evaluation | None,
    roots: Sequence[Path] | None,
    report: Any,
) -> Data:
    """Calibration windows, and held-out ones where an evaluation is wanted. Raises `BadCalibration`."""
    wanted = evaluation.samples if evaluation and evaluation.source == "held_out" else 0
    windows = _windows(opened, calibration, calibration.samples + wanted, roots, report)
    if len(windows) <= wanted:
        # A short text still leaves half of its windows to judge on.
        wanted = len(windows) // 2
    measured, held_out = windows.split(len(windows) - wanted)
    description = f"{len(held_out)} windows of the calibration source that were not measured"
    if evaluation and evaluation.source != "held_out":
        held_out = text_windows(
            evaluation.source,
            opened.processor,
            evaluation.samples,
            calibration.sequence_length,
            calibration.seed,
            roots,
        )
        description = f"{len(held_out)} windows of {Path(evaluation.source).name}"
    if not len(measured) or (evaluation and not len(held_out)):
        raise BadCalibration("the calibration text is too short for both measuring and judging; give more text")
    return Data(measured, held_out if evaluation else None, calibration.batch_size, calibration.seed, description)


def _windows(
    opened: Opened, calibration: Calibration, count: int, roots: Sequence[Path] | None, report: Any
) -> Windows:
    if opened.task == "classification":
        raise BadCalibration("image models need images to measure on, and image data is not read yet")
    if calibration.source == "self":
        return self_written_windows(
            opened.model, opened.processor, opened.task, calibration, count, calibration.seed, report
        )
    windows = text_windows(
        calibration.source, opened.processor, count, calibration.sequence_length, calibration.seed, roots
    )
    report(len(windows), len(windows), "windows")
    return windows
