"""The whole service as its real processes, over PostgreSQL, Redis and S3."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from cryptography.fernet import Fernet
from sglp_client import SGLP, Job

from jobs.settings import Settings
from tests.services.processes import free_port, wait_for_port

LEASE_SECONDS = 3.0
GRACE_SECONDS = 2.0


class Stack:
    """Starts and ends the service's processes; `client` speaks to its API."""

    def __init__(self, directory: Path, settings: dict[str, Any]) -> None:
        self._directory = directory
        self._servers: list[subprocess.Popen[bytes]] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self.port = free_port()
        # Of the processes that are started next.
        self.python = Path(sys.executable)
        self.settings = {
            "work_dir": str(directory / "work"),
            "cache_dir": str(directory / "cache"),
            "lease_seconds": LEASE_SECONDS,
            "cancel_grace_seconds": GRACE_SECONDS,
            "retry_backoff_seconds": 0.1,
            "scheduler_interval_seconds": 0.2,
            "gpu_classes": ["default", "small", "limited", "nobody"],
            "port": self.port,
            "secret_keys": [Fernet.generate_key().decode()],
            **settings,
        }
        self.client = SGLP(f"http://127.0.0.1:{self.port}")

    def start_api(self, port: int | None = None, **settings: Any) -> subprocess.Popen[bytes]:
        """An API process, on a port of the stack's own or on another one."""
        process = self._start("api", "api", self._servers, port=port or self.port, **settings)
        wait_for_port(process, port or self.port, self._log("api"))
        return process

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        return self._start("scheduler", "worker.scheduler", self._servers)

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        return self._start("worker", "worker", self._workers, **settings)

    def logs(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()}" for log in sorted(self._directory.glob("*.log")))

    def wait_for(self, job_id: str, until: Callable[[Job], bool], seconds: float = 120) -> Job:
        """The job once the condition holds."""
        give_up = time.monotonic() + seconds
        while not until(job := self.client.get(job_id)):
            assert time.monotonic() < give_up, f"{job}\n{self.logs()}"
            time.sleep(0.1)
        return job

    def wait_for_end(self, job_id: str, seconds: float = 120) -> Job:
        return self.wait_for(job_id, lambda job: job["finished_at"] is not None, seconds)

    def event_types(self, job_id: str) -> list[str]:
        return [event["type"] for event in self.client.events(job_id)]

    def work_files(self) -> list[Path]:
        """The folders of jobs on the workers' disk."""
        roots = (self._directory / "work", self._directory / "cache" / "sources" / "in_use")
        return [path for root in roots for path in root.rglob("*") if path.is_file()]

    def read_settings(self) -> Settings:
        return Settings.model_validate(self.settings)

    def end_workers(self) -> None:
        """Kill the workers, stopped ones too."""
        _end(self._workers)

    def end(self) -> None:
        """Kill everything."""
        _end(self._workers)
        _end(self._servers)
        self.client.close()

    def _start(
        self, name: str, module: str, among: list[subprocess.Popen[bytes]], **changes: Any
    ) -> subprocess.Popen[bytes]:
        settings = {**self.settings, **changes}
        environment = {
            f"SGLP_{key.upper()}": value if isinstance(value, str) else json.dumps(value)
            for key, value in settings.items()
        }
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                [self.python, "-m", module], stdout=log, stderr=log, env={**os.environ, **environment}
            )
        among.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()


@contextmanager
def running_stack(directory: Path, **settings: Any) -> Iterator[Stack]:
    """A stack with API and scheduler; workers are the test's to start."""
    stack = Stack(directory, settings)
    try:
        stack.start_api()
        stack.start_scheduler()
        yield stack
    finally:
        stack.end()


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and all it has started, as a machine that hangs would."""
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        each.send_signal(signal.SIGSTOP)


def thaw(process: subprocess.Popen[bytes]) -> None:
    for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        each.send_signal(signal.SIGCONT)
