"""Going on while a store fails: what a job has taken hours to make is worth minutes of trying."""

import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from jobs.artifacts import StorageForbidden, StorageUnavailable

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0

Result = TypeVar("Result")


class Patience:
    """Repeats what a store has failed at, for so many seconds and until told to stop; then its error is raised."""

    def __init__(self, seconds: float, stopping: threading.Event) -> None:
        self._tries = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(seconds) | stop_when_event_set(stopping),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
            sleep=sleep_using_event(stopping),
            reraise=True,
        )

    def __call__(self, step: Callable[[], Result]) -> Result:
        """What the step returns; it may run several times."""
        return self._tries(step)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, StorageUnavailable) and not isinstance(error, StorageForbidden)
