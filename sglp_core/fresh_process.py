"""Run one of our modules in a process of its own: JSON in, JSON out, nothing shared with this one but the files.

Importing the libraries takes longer than most of what is asked. So on Linux one interpreter imports them and does
nothing else, and every question is answered by a fork of it; elsewhere, where forks of such a process are not safe, by
an interpreter of its own.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sglp_core.errors import SGLPError

FORKS = sys.platform == "linux"
if sys.platform == "linux":
    import pyprctl

LOG_TAIL = 2000
# With the last, PyTorch asks which devices there are without starting CUDA, which would not outlive a fork.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class FreshProcesses:
    """A context in which questions are asked, one after the other; its files lie in `scratch`."""

    def __init__(self, scratch: Path, *, forks: bool = FORKS) -> None:
        self.scratch = scratch
        self._forks = forks
        self._log = scratch / "fresh-process.log"
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._end()

    def call(self, module: str, request: dict[str, Any]) -> dict[str, Any]:
        """What the module's function `handle` answers.

        Raises `MemoryError` where the process was killed, as systems do for want of memory, and `SGLPError` with the
        end of its log where it fails otherwise.
        """
        question, answer = self.scratch / f"{module}.request.json", self.scratch / f"{module}.answer.json"
        question.write_text(json.dumps(request))
        answer.unlink(missing_ok=True)
        server = self._server = self._server or self._start()
        assert server.stdin is not None
        assert server.stdout is not None
        # One that has died already is noticed by the missing answer.
        with suppress(BrokenPipeError):
            server.stdin.write(json.dumps([module, str(question), str(answer)]) + "\n")
            server.stdin.flush()
        said = server.stdout.readline()
        status = int(said) if said else server.wait()
        if not (self._forks and said):
            self._end()
        if status == -signal.SIGKILL:
            raise MemoryError(f"{module} was killed, most likely for want of memory")
        if status or not answer.is_file():
            raise SGLPError(f"{module} ended with status {status}: {self._log.read_text(errors='replace')[-LOG_TAIL:]}")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", __name__, *(["fork"] if self._forks else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **ENVIRONMENT},
                text=True,
            )

    def _end(self) -> None:
        if self._server is not None:
            # Nothing is in it that is worth ending well, and its fork ends with it.
            self._server.kill()
            self._server.communicate()
            self._server = None


def _serve() -> None:
    _end_with_parent()
    said = os.fdopen(os.dup(1), "w", buffering=1)
    # What the libraries print belongs into the log.
    os.dup2(2, 1)
    for line in sys.stdin:
        module, question, answer = json.loads(line)
        handle = importlib.import_module(module).handle
        forked = os.fork() if "fork" in sys.argv else 0
        if not forked:
            _end_with_parent()
            Path(answer).write_text(json.dumps(handle(json.loads(Path(question).read_text()))))
            sys.exit()
        said.write(f"{os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])}\n")


def _end_with_parent() -> None:
    """Whoever asked may be killed, and nobody would wait for the answer."""
    if sys.platform == "linux":
        pyprctl.set_pdeathsig(signal.SIGKILL)


if __name__ == "__main__":
    _serve()
