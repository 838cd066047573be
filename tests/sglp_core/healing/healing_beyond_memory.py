"""A healing whose process may allocate far less than its data takes; run by `test_large_data.py` in its own process."""

import json
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch

from sglp_core import Calibration, Healing
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.data.samples import digest_of
from sglp_core.execution.variant import Variant
from sglp_core.healing.heal import Training, heal
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Options
from sglp_core.run_context import RunContext

REMOVED = (1, 2, 3, 4)
LENGTH = 32


def main(folder: Path, source: str, batch_size: int, room_bytes: int) -> None:
    """Heal the model of the folder for two epochs on a source there, measured on a small part of it."""
    context = RunContext(cache=folder / "cache")
    calibration = Calibration(str(folder / source), samples=64, sequence_length=LENGTH, batch_size=batch_size)
    healing = Healing(epochs=2, alpha=0.0, learning_rate=1e-4, source=str(folder / source), batch_size=batch_size)
    loaded = load_model(str(folder / "model"), Options(calibration=calibration), context)
    # What libraries take at their first use is not in question.
    few = folder / f"few{Path(source).suffix}"
    _heal(loaded, prepare(loaded, replace(calibration, source=str(few)), None, context), Healing(1))
    limit = int(psutil.Process().memory_info().data + room_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    data = prepare(loaded, calibration, None, context, healing)
    print(json.dumps(_heal(loaded, data, healing)))


def _heal(loaded: LoadedModel, data: CalibrationData, healing: Healing) -> dict[str, Any]:
    training = Training(healing, data.seed, data=data.training(loaded))
    healed = heal(loaded, data.calibration(loaded), Variant(REMOVED), training)
    return {
        "samples": healed.trained_windows,
        "steps": healed.curve[-1].step,
        "finite": all(bool(torch.isfinite(tensor).all()) for tensor in healed.changes.values()),
        "digest": digest_of(*healed.changes.values()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
