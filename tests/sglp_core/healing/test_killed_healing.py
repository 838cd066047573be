"""A process killed in the middle of healing: the next one ends with the very weights that an undisturbed one gives."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, cast

import pytest
import torch

from sglp_core import Calibration, Healing
from sglp_core.data.calibration_data import prepare
from sglp_core.execution.variant import Variant
from sglp_core.healing.heal import Healed, Training, heal
from sglp_core.healing.training_state import kept_state
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from tests.sglp_core.recorded_progress import Recorder
from tests.worker.tiny_model import write_text, write_tiny_model

REMOVED = (2, 3)
HEALING = Healing(160, 1e-5, 0.0, "lora")
JUDGED_EVERY, KILLED_FROM = 20, 70


def healed(directory: Path, cache: str) -> Healed:
    """Heal the directory's model, telling every step on the standard output."""
    uri = str(directory / "model")
    loaded = load_model(uri, Options(calibration=Calibration(sequence_length=16)), RunContext(cache=directory / cache))
    calibration = Calibration(str(directory / "text.txt"), samples=16, sequence_length=16, batch_size=4)
    data = prepare(loaded, calibration, None, RunContext(cache=directory / cache))
    given = {"model.norm.weight": torch.full((32,), 1.01)}
    return heal(
        loaded,
        data.calibration(loaded),
        Variant(REMOVED, given),
        Training(
            HEALING,
            seed=data.seed,
            kept=kept_state(loaded, data, Variant(REMOVED, given), HEALING, RunContext(cache=directory / cache)),
        ),
        Recorder(lambda progress: print(progress.done, flush=True)).phase(),
    )


def test_a_killed_healing_is_resumed_to_the_same_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_model(tmp_path / "model")
    write_text(tmp_path / "text.txt")
    program = (
        "import sys; from pathlib import Path; from tests.sglp_core.healing.test_killed_healing import healed\n"
        "healed(Path(sys.argv[1]), 'cache')"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    for line in cast(IO[str], process.stdout):
        if int(line) >= KILLED_FROM:
            process.kill()
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    found = healed(tmp_path, "cache")
    told = [int(line) for line in capsys.readouterr().out.splitlines()]
    assert told == list(range(found.resumed_from_step, HEALING.steps + 1))
    expected = healed(tmp_path, "another cache")
    assert found.resumed_from_step % JUDGED_EVERY == 0
    assert KILLED_FROM - JUDGED_EVERY <= found.resumed_from_step < HEALING.steps
    assert (found.step, found.curve, found.gain) == (expected.step, expected.curve, expected.gain)
    assert found.gain is not None
    assert found.step > 0
    assert found.changes.keys() == expected.changes.keys()
    assert all(torch.equal(tensor, expected.changes[name]) for name, tensor in found.changes.items())
