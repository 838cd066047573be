"""The embedded service: API, worker and scheduler as processes over SQLite and folders, all below one state folder.

Whatever ends this process, SIGKILL included, ends the service with it.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pyprctl
from sglp_client import UserError

HOST = "127.0.0.1"
MODULES = {"api": "api", "worker": "worker", "scheduler": "worker.scheduler"}
# A process that ends sooner cannot start, and is not restarted.
SOON_SECONDS = 10.0
READY_SECONDS = 60.0
# The worker gives its job ten seconds to end, and Celery checks for the signal every two.
STOP_SECONDS = 20.0
LOG_TAIL_LINES = 20


class StackFailed(UserError):
    """The embedded service could not start, or one of its processes has ended."""


class EmbeddedStack:
    """A context manager around a running service; `url` is where it answers."""

    def __init__(
        self,
        state_dir: Path,
        *,
        model_roots: Sequence[Path] = (),
        port: int | None = None,
        require_keys: bool = False,
    ) -> None:
        self._state = state_dir.resolve()
        self._roots = [root.resolve() for root in model_roots]
        self._port = port
        self._require_keys = require_keys
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._cleanup = ExitStack()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    @property
    def ignored(self) -> list[str]:
        """The environment variables that have no effect, because this service sets them to something else."""
        return sorted(
            name
            for name, value in self._environment().items()
            if name.startswith("SGLP_") and os.environ.get(name, value) != value
        )

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._lock(starting)
            starting.callback(self._stop)
            self._start()
            self._cleanup = starting.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def check(self) -> None:
        """Restart a process that has ended; its job continues once the lease has expired.

        Raises `StackFailed` with the end of its log where it ended soon after its start, as it would end again.
        """
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                if time.monotonic() - self._started[name] < SOON_SECONDS:
                    raise StackFailed(f"the {name} ended with status {process.returncode}; {self._log_tail(name)}")
                self._serve(name)

    def _lock(self, starting: ExitStack) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        lock = starting.enter_context((self._state / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackFailed(f"another service is already running on {self._state}") from None

    def _start(self) -> None:
        for folder in ("artifacts", "broker", "cache", "logs", "tmp", "work"):
            (self._state / folder).mkdir(exist_ok=True)
        try:
            with socket.create_server((HOST, self._port or 0)) as free:
                self._port = free.getsockname()[1]
        except OSError as error:
            raise StackFailed(
                f"port {self._port} cannot be listened on: {error.strerror}; choose another with --port"
            ) from error
        migration = self._spawn("migration", "jobs", "migrate")
        if migration.wait():
            raise StackFailed(f"the database could not be prepared; {self._log_tail('migration')}")
        for name in MODULES:
            self._serve(name)
        self._wait_until_ready()

    def _serve(self, name: str) -> None:
        self._processes[name] = self._spawn(name, MODULES[name])
        self._started[name] = time.monotonic()

    def _spawn(self, name: str, *module: str) -> subprocess.Popen[bytes]:
        with (self._state / "logs" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *module],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment()},
                # A Ctrl-C in the terminal must reach this process only, which then ends the others in order.
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 - no other thread runs yet
            )

    def _environment(self) -> dict[str, str]:
        state = self._state
        return {
            "SGLP_STATE_DIR": str(state),
            "SGLP_DATABASE_URL": f"sqlite:///{state / 'sglp.db'}",
            "SGLP_BROKER_URL": f"filesystem://{state / 'broker'}",
            "SGLP_ARTIFACT_URL": (state / "artifacts").as_uri(),
            "SGLP_CACHE_DIR": str(state / "cache"),
            "SGLP_WORK_DIR": str(state / "work"),
            "SGLP_MODEL_ROOTS": json.dumps([str(root) for root in self._roots]),
            "SGLP_GPU_CLASS": "default",
            "SGLP_GPU_CLASSES": json.dumps(["default"]),
            "SGLP_HOST": HOST,
            "SGLP_PORT": str(self._port),
            "SGLP_REQUIRE_KEYS": str(self._require_keys).lower(),
            # The broker moves messages through the temporary folder, which is atomic only on one file system.
            "TMPDIR": str(state / "tmp"),
            "PYTHONUNBUFFERED": "1",
        }

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + READY_SECONDS
        while True:
            self.check()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2).is_success:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() >= give_up:
                raise StackFailed(f"the API is not ready after {READY_SECONDS:.0f} s; {self._log_tail('api')}")
            time.sleep(0.1)

    def _stop(self) -> None:
        """SIGTERM and time to end cleanly; then SIGKILL, on a second Ctrl-C at once."""
        try:
            for process in self._processes.values():
                process.terminate()
            give_up = time.monotonic() + STOP_SECONDS
            for process in self._processes.values():
                process.wait(max(0.0, give_up - time.monotonic()))
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            pass
        finally:
            for process in self._processes.values():
                process.kill()
                process.wait()

    def _log_tail(self, name: str) -> str:
        path = self._state / "logs" / f"{name}.log"
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        return f"the end of {path}:\n{tail}"


def _dies_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        pyprctl.set_pdeathsig(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
