"""Run one of our modules in a fresh Python process: JSON in, JSON out, nothing shared with this one but the files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sglp_core.errors import SGLPError

if sys.platform == "linux":
    import pyprctl

LOG_TAIL = 2000


def call(module: str, request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run `python -m module REQUEST ANSWER`.

    Raises `MemoryError` where the process was killed, as systems do for want of memory, and `SGLPError` with the end of
    its log where it fails otherwise.
    """
    question, answer = scratch / f"{module}.request.json", scratch / f"{module}.answer.json"
    question.write_text(json.dumps(request))
    answer.unlink(missing_ok=True)
    run = subprocess.run(
        [sys.executable, "-m", module, str(question), str(answer)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
        check=False,
    )
    if run.returncode == -signal.SIGKILL:
        raise MemoryError(f"{module} was killed, most likely for want of memory")
    if run.returncode or not answer.is_file():
        tail = run.stdout.decode(errors="replace")[-LOG_TAIL:]
        raise SGLPError(f"{module} ended with status {run.returncode}: {tail}")
    result: dict[str, Any] = json.loads(answer.read_text())
    return result


def serve(handler: Any) -> None:
    """The other side of `call`, for the module's `__main__`."""
    if sys.platform == "linux":
        # Whoever asked may be killed, and nobody would wait for the answer.
        pyprctl.set_pdeathsig(signal.SIGKILL)
    question, answer = Path(sys.argv[1]), Path(sys.argv[2])
    answer.write_text(json.dumps(handler(json.loads(question.read_text()))))
