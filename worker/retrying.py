"""Retry while an object store fails. The result of hours of computation is worth minutes of retrying."""

import threading

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


def retrying_store(seconds: float, stopping: threading.Event) -> Retrying:
    """Calls a function again while the store is unavailable, for `seconds` or until `stopping` is set.

    The last error of the store is raised then.
    """
    return Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_delay(seconds) | stop_when_event_set(stopping),
        wait=wait_random_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        sleep=sleep_using_event(stopping),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, StorageUnavailable) and not isinstance(error, StorageForbidden)
