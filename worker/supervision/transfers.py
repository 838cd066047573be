"""Run a job's transfers in the background while its lease is kept."""

import time
from collections.abc import Callable
from typing import TypeVar

from worker.background_transfer import BackgroundTransfer
from worker.supervision.endings import EndedEarly, released, stopped
from worker.supervision.lease import Lease

TICK_SECONDS = 0.25

Result = TypeVar("Result")


class Transfers:
    """The transfers of one job, one at a time. They have `grace_seconds` to end once the worker shuts down."""

    def __init__(self, lease: Lease, grace_seconds: float, is_shutting_down: Callable[[], bool]) -> None:
        self._lease = lease
        self._grace_seconds = grace_seconds
        self._is_shutting_down = is_shutting_down

    def finish(self, transfer: BackgroundTransfer[Result], phase: str) -> Result:
        """Start the transfer and keep the lease until it ends; returns its result, and raises its errors.

        Raises `EndedEarly` where the job had to stop before.
        """
        lease = self._lease
        transfer.start()
        give_up_at: float | None = None
        while transfer.is_alive():
            lease.record_progress(phase, transfer.done_bytes, transfer.total_bytes, "bytes")
            lease.renew()
            if give_up_at is None and self._is_shutting_down():
                give_up_at = time.monotonic() + self._grace_seconds
            if lease.stop or (give_up_at and time.monotonic() >= give_up_at):
                transfer.stopping.set()
                raise EndedEarly(stopped(lease) if lease.stop else released(lease))
            transfer.join(TICK_SECONDS)
        return transfer.result()
