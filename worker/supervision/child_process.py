"""The child process of one job: a separate process group, a scrubbed environment, and a pipe for its messages."""

import fnmatch
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from worker.supervision.messages import ChildMessage, ChildMisbehaved, ChildRequest, parse_message

# Nothing of the service (database, broker, store, keys) is on this list; the model hub's own variables are, but not its
# token: what credential a job needs, and no other, comes over a pipe.
KEPT_ENVIRONMENT = (
    "PATH", "HOME", "LANG", "LC_*", "TZ", "LD_LIBRARY_PATH", "CUDA*", "NVIDIA_*", "OMP_*", "MKL_*", "PYTORCH_*", "HF_*",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip
DROPPED_ENVIRONMENT = ("HF_TOKEN",)
LOG_TAIL_BYTES = 4000
MOST_LINE_BYTES = 16 << 20
EMPTY: Mapping[str, Mapping[str, str]] = MappingProxyType({})


class ChildProcess:
    """A running `worker.child`. The caller reads `messages` until `ended`, may stop it, and always calls `close`."""

    def __init__(
        self, request: ChildRequest, directory: Path, credentials: Mapping[str, Mapping[str, str]] = EMPTY
    ) -> None:
        """Start it on a job; it writes to the folders `output` and `tmp` of `directory`, and to nothing else of it.

        `credentials` are the options of the places the job reads; they go through a pipe and stand nowhere.
        """
        self.output = directory / "output"
        self._log = directory / "child.log"
        request_file, temporary = directory / "request.json", directory / "tmp"
        for folder in (self.output, temporary):
            folder.mkdir()
        request_file.write_text(request.model_dump_json())
        reader, writer = os.pipe()
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    # -P: no module is looked for in the working directory.
                    [
                        *(sys.executable, "-P", "-m", "worker.child"),
                        *(request_file, self.output, str(writer), str(os.getpid())),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    cwd=directory,
                    env={**_scrubbed(os.environ), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
                    pass_fds=(writer,),
                    start_new_session=True,
                )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        assert self._process.stdin is not None
        # A child that has died already is noticed where its messages are read.
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(credentials, default=dict).encode())
        os.set_blocking(reader, False)
        self._pipe = reader
        self._unread = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(reader, selectors.EVENT_READ)

    def messages(self, timeout: float) -> Iterator[ChildMessage]:
        """The messages since the last call, waiting at most `timeout` seconds for the first one.

        Raises `ChildMisbehaved` for a line that is not a message, or that does not end.
        """
        self._selector.select(timeout)
        while data := self._read():
            *lines, self._unread = (self._unread + data).split(b"\n")
            yield from map(parse_message, lines)
            if len(self._unread) > MOST_LINE_BYTES:
                raise ChildMisbehaved(f"a message has more than {MOST_LINE_BYTES} bytes")

    def ended(self) -> bool:
        """Whether the child has exited. It is not reaped yet, so its process group cannot be anybody else's."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def terminate(self) -> None:
        """Ask the child and all it has started to end."""
        os.killpg(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the child and all it has started."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> int:
        """Kill what is left of the process group and return the child's exit status, negative for a signal."""
        self.kill()
        status = self._process.wait()
        self._selector.close()
        os.close(self._pipe)
        return status

    def log_tail(self) -> str:
        """The end of what the child and its libraries printed."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def _read(self) -> bytes:
        try:
            data = os.read(self._pipe, 65536)
        except BlockingIOError:
            return b""
        if not data and self._selector.get_map():
            # At the end of the pipe `select` would return at once for ever.
            self._selector.unregister(self._pipe)
        return data


def _scrubbed(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in DROPPED_ENVIRONMENT and any(fnmatch.fnmatchcase(name, pattern) for pattern in KEPT_ENVIRONMENT)
    }
