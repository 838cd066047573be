"""Call a module of this package in a separate process, with JSON as input and output; only files are shared.

Importing the libraries takes longer than most calls. So on Linux one server process imports them, and each call runs in
a fork of it. On other systems, where forking such a process is not safe, each call starts a new interpreter.
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
from typing import Self

from sglp_core.checkpoints.strict_json import JsonObject
from sglp_core.errors import SGLPError

FORKS = sys.platform == "linux"
if sys.platform == "linux":
    import pyprctl

LOG_TAIL = 2000
# With the last one, PyTorch finds the devices without starting CUDA, which does not work in a forked process.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class FreshProcesses:
    """A context manager that runs calls one after the other; requests, answers and the log are files in `scratch`.

    On entry the libraries begin to be imported, while the caller goes on.
    """

    def __init__(self, scratch: Path, *, forks: bool = FORKS) -> None:
        self.scratch = scratch
        self._forks = forks
        self._log = scratch / "fresh-process.log"
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._server = self._start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop()

    def call(self, module: str, request: JsonObject) -> JsonObject:
        """Call the module's function `handle` with the request and return its answer.

        Raises `MemoryError` where the process was killed, which systems do when memory runs out, and `SGLPError` with
        the end of its log where it fails otherwise.
        """
        request_file, answer_file = self.scratch / f"{module}.request.json", self.scratch / f"{module}.answer.json"
        request_file.write_text(json.dumps(request))
        answer_file.unlink(missing_ok=True)
        server = self._server = self._server or self._start()
        assert server.stdin is not None
        assert server.stdout is not None
        # A server that has died already shows by the missing answer below.
        with suppress(BrokenPipeError):
            server.stdin.write(json.dumps([module, str(request_file), str(answer_file)]) + "\n")
            server.stdin.flush()
        reported = server.stdout.readline()
        status = int(reported) if reported else server.wait()
        if not (self._forks and reported):
            self._stop()
        if status == -signal.SIGKILL:
            raise MemoryError(f"{module} was killed, most likely because memory ran out")
        if status or not answer_file.is_file():
            raise SGLPError(f"{module} ended with status {status}: {self._log.read_text(errors='replace')[-LOG_TAIL:]}")
        answer: JsonObject = json.loads(answer_file.read_text())
        return answer

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

    def _stop(self) -> None:
        if self._server is not None:
            # It holds nothing that must be saved, and its fork is killed with it.
            self._server.kill()
            self._server.communicate()
            self._server = None


def _serve() -> None:
    _die_with_parent()
    statuses = os.fdopen(os.dup(1), "w", buffering=1)
    # From here, what the libraries print goes to the log.
    os.dup2(2, 1)
    for line in sys.stdin:
        module, request_file, answer_file = json.loads(line)
        handle = importlib.import_module(module).handle
        child = os.fork() if "fork" in sys.argv else 0
        if not child:
            _die_with_parent()
            Path(answer_file).write_text(json.dumps(handle(json.loads(Path(request_file).read_text()))))
            sys.exit()
        statuses.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, because nobody would read its answer."""
    if sys.platform == "linux":
        pyprctl.set_pdeathsig(signal.SIGKILL)


if __name__ == "__main__":
    _serve()
