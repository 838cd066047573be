"""When a worker ends by itself: it has had no job for some time, or has run as many as it may.

Whoever starts workers on demand, as Kubernetes does, never has to stop one then, and so never one that has a job.
"""

import os
import signal
import time
from collections.abc import Callable
from threading import Timer

import structlog

log = structlog.get_logger(__name__)


class Lifetime:
    """Ends this process as SIGTERM does: without a job it exits with status 0."""

    def __init__(self, idle_seconds: float | None, max_jobs: int | None) -> None:
        self._idle_seconds = idle_seconds
        self._jobs_left = max_jobs
        self._idle_since = time.monotonic()
        self._timer: Timer | None = None

    def start(self) -> None:
        """The worker has no job from now on."""
        self._idle_since = time.monotonic()
        self._wait()

    def run(self, job: Callable[[], bool]) -> bool:
        """Call `job`, which says whether there was one; if there was none, the worker stays as idle as it was. Returns
        what it said.
        """
        if self._timer:
            self._timer.cancel()
        try:
            there_was = job()
            if there_was:
                self._idle_since = time.monotonic()
                self._count()
            return there_was
        finally:
            self._wait()

    def _count(self) -> None:
        if self._jobs_left is not None:
            self._jobs_left -= 1
            if self._jobs_left == 0:
                _end("it has run as many jobs as it may")

    def _wait(self) -> None:
        if self._idle_seconds is not None:
            seconds_left = self._idle_since + self._idle_seconds - time.monotonic()
            self._timer = Timer(max(seconds_left, 0), _end, ["it had no job for as long as it may"])
            self._timer.daemon = True
            self._timer.start()


def _end(reason: str) -> None:
    log.info("the worker ends", reason=reason)
    os.kill(os.getpid(), signal.SIGTERM)
