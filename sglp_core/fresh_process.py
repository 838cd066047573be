"""Call a module of this package in a separate process, with JSON as input and output; only files are shared.

Importing the libraries takes longer than most calls. So on Linux one server process has them, and each call runs in a
fork of it. On other systems, where forking such a process is not safe, each call starts a new interpreter.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from sglp_core.checkpoints.strict_json import JsonObject
from sglp_core.errors import SGLPError

FORKS = sys.platform == "linux"
if sys.platform == "linux":
    import pyprctl

LOG_TAIL = 2000
LOG_BYTES = 1 << 20
# With the last one, PyTorch finds the devices without starting CUDA, which does not work in a forked process.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class FreshProcesses:
    """A context manager that runs calls one after the other; requests, answers and logs are files in `scratch`.

    On entry the libraries begin to be imported, while the caller goes on; within `shared_server` that is done once.
    """

    def __init__(self, scratch: Path, *, forks: bool = FORKS) -> None:
        # A shared server may have been started in another working directory.
        self.scratch = scratch.resolve()
        self._forks = forks
        self._own: _Server | None = None

    def __enter__(self) -> Self:
        self._server().begin()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._own is not None:
            self._own.end()

    def call(self, module: str, request: JsonObject) -> JsonObject:
        """Call the module's function `handle` with the request and return its answer.

        Raises `MemoryError` where the process was killed, which systems do when memory runs out, and `SGLPError` with
        the end of its log where it fails otherwise.
        """
        request_file, answer_file, log = (
            self.scratch / f"{module}.{suffix}" for suffix in ("request.json", "answer.json", "log")
        )
        request_file.write_text(json.dumps(request))
        answer_file.unlink(missing_ok=True)
        log.write_bytes(b"")
        status = self._server().call(module, request_file, answer_file, log)
        if status == -signal.SIGKILL:
            raise MemoryError(f"{module} was killed, most likely because memory ran out")
        if status or not answer_file.is_file():
            raise SGLPError(f"{module} ended with status {status}: {log.read_text(errors='replace')[-LOG_TAIL:]}")
        answer: JsonObject = json.loads(answer_file.read_text())
        return answer

    def _server(self) -> "_Server":
        if _shared and self._forks:
            return _shared[-1]
        self._own = self._own or _Server(self._forks)
        return self._own


@contextmanager
def shared_server(*, of_this_process: bool = False) -> Iterator[None]:
    """While it is open, the `FreshProcesses` of this process use one server, where the system forks.

    `of_this_process` makes the server a fork of this very process, which spares a second import of the libraries. The
    caller has imported them, computed nothing, and has no other thread.
    """
    server = _Server(forks=True)
    if of_this_process and FORKS:
        server.fork()
    _shared.append(server)
    try:
        yield
    finally:
        _shared.remove(server)
        server.end()


class _Server:
    """A process that answers calls, each in a fork of it, or one call itself; it is started when it is needed."""

    def __init__(self, forks: bool) -> None:
        self._forks = forks
        self._process: subprocess.Popen[str] | _Fork | None = None
        # What it prints before its first call, such as why it cannot import the libraries.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it goes with this object

    def begin(self) -> None:
        """Let the libraries begin to be imported."""
        self._started()

    def fork(self) -> None:
        """Be a fork of this process."""
        self._process = _Fork()

    def call(self, module: str, request_file: Path, answer_file: Path, log: Path) -> int:
        """The exit status of the call, negative for a signal."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        files = [str(file) for file in (request_file, answer_file, log)]
        # A process that has died already shows by the missing status below.
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps([module, *files]) + "\n")
            process.stdin.flush()
        reported = process.stdout.readline()
        status = int(reported) if reported else process.wait()
        if not reported:
            with log.open("ab") as whole:
                whole.write(os.pread(self._errors.fileno(), LOG_BYTES, 0))
        if not (self._forks and reported):
            self.end()
        return status

    def end(self) -> None:
        """Kill it: it holds nothing that must be saved, and its fork is killed with it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            # What could not be written to a process that had died is flushed once more.
            with suppress(BrokenPipeError):
                pipe.close()
        self._process = None

    def _started(self) -> "subprocess.Popen[str] | _Fork":
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(os.getpid()), *(["fork"] if self._forks else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **ENVIRONMENT},
                text=True,
            )
        return self._process


class _Fork:
    """A fork of this process that answers calls, with what is used of a `subprocess.Popen`."""

    def __init__(self) -> None:
        request_reader, request_writer = os.pipe()
        status_reader, status_writer = os.pipe()
        parent = os.getpid()
        self._status: int | None = None
        self._pid = os.fork()
        if not self._pid:
            # It must never return to what its parent was doing.
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.dup2(request_reader, 0)
                os.dup2(status_writer, 1)
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                os.environ.update(ENVIRONMENT)
                _serve(parent, forks=True)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.close(request_reader)
        os.close(status_writer)
        self.stdin: IO[str] = os.fdopen(request_writer, "w")
        self.stdout: IO[str] = os.fdopen(status_reader)

    def kill(self) -> None:
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._status


_shared: list[_Server] = []


def _serve(parent: int, *, forks: bool) -> None:
    """Answer calls from file descriptor 0, and write the status of each to 1."""
    _die_with(parent)
    requests, statuses = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    server = os.getpid()
    for line in requests:
        # With the first call transformers compiles a thousand patterns, by which it renames the weights it loads.
        get_checkpoint_conversion_mapping("")
        child = os.fork() if forks else 0
        if not child:
            _answer(server if forks else parent, *json.loads(line))
        statuses.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")


def _answer(parent: int, module: str, request_file: str, answer_file: str, log: str) -> NoReturn:
    """Call the module's `handle`, and end this process; what anybody prints goes to the log."""
    status = 1
    try:
        _die_with(parent)
        written = os.open(log, os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(written, number)
        handle = importlib.import_module(module).handle
        Path(answer_file).write_text(json.dumps(handle(json.loads(Path(request_file).read_text()))))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, because nobody would read its answer."""
    if sys.platform == "linux":
        pyprctl.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), forks="fork" in sys.argv)
