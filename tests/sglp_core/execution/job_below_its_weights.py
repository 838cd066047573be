"""A job whose processes may allocate less than the weights take; run by `test_limited_memory.py` in its own process."""

import json
import resource
import sys
from pathlib import Path

import psutil

import sglp_core
from sglp_core import Calibration, Evaluation, Options, RunContext, Target

SHARE = 0.4


def main(folder: Path, memory: str) -> None:
    """Limit this process to its imports and a share of the weights, then compress the model of the folder."""
    weights = (folder / "model/model.safetensors").stat().st_size
    # What RLIMIT_DATA counts: heap and private mappings, whether they are resident or not.
    limit = int(psutil.Process().memory_info().data + SHARE * weights)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    report = sglp_core.compress(
        str(folder / "model"),
        Target("layers", 0.1),
        folder / f"out-{memory}",
        Options(
            calibration=Calibration(str(folder / "text.txt"), samples=4, sequence_length=32, batch_size=1),
            evaluation=Evaluation(samples=2, controls=False),
        ),
        RunContext(cache=folder / "cache", memory=memory),
    )
    print(json.dumps(report.to_dict()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
