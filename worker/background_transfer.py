"""Copying files on a separate thread, so that the supervisor's heartbeats continue meanwhile."""

import threading
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from worker.retrying import retrying_store

Result = TypeVar("Result")


class BackgroundTransfer(threading.Thread, ABC, Generic[Result]):
    """Start it, join it, then take `result`; set `stopping` to end it early.

    Each request to a store that fails is retried for `retry_seconds`. The thread is a daemon: a store that hangs must
    not keep the worker from ending.
    """

    def __init__(self, name: str, total_bytes: int, retry_seconds: float) -> None:
        super().__init__(daemon=True, name=name)
        self.done_bytes = 0
        self.total_bytes = total_bytes
        self.stopping = threading.Event()
        self._retrying = retrying_store(retry_seconds, self.stopping)
        self._outcome: Result | Exception

    @abstractmethod
    def transfer(self) -> Result:
        """Copy the files; runs on the thread."""

    def run(self) -> None:
        try:
            self._outcome = self.transfer()
        except Exception as error:
            self._outcome = error

    def result(self) -> Result:
        """What `transfer` returned; raises what it raised."""
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome
