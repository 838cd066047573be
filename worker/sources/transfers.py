"""Requests to a remote folder that are repeated after interruptions, until the time for downloads is over."""

import time
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from worker.sources.remote_folder import Interrupted, RemoteFile, RemoteFolder, SourceError

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.5
# An interrupted read that brought at least this much was worth it: the attempts are counted from the start again.
PROGRESS_BYTES = 1 << 20
LOCK_POLL_SECONDS = 0.2
REPORT_SECONDS = 0.5

Answer = TypeVar("Answer")


class Transfers:
    """All requests of one job, which together may take `seconds`. Every method raises `SourceError`."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds

    def find(self, folder: RemoteFolder, name: str) -> RemoteFile | None:
        """The file of this name, or None where there is none."""
        return self._repeat(lambda: folder.find(name))

    def read(self, folder: RemoteFolder, file: RemoteFile, start: int, end: int) -> bytes:
        """The bytes from `start` up to, not including, `end`."""

        def read() -> bytes:
            content = b"".join(folder.read(file, start, end))
            if len(content) < end - start:
                raise Interrupted(f"{file.uri} ended before its end")
            return content

        return self._repeat(read)

    def stream(self, folder: RemoteFolder, file: RemoteFile, start: int, counter: "ByteCounter") -> Iterator[bytes]:
        """The bytes from `start` to the end; an interrupted read continues from the last byte received."""
        counter.add(start)
        while start < file.size_bytes:
            for attempt in self._retrying():
                with attempt:
                    begin = start
                    try:
                        for chunk in folder.read(file, start, file.size_bytes):
                            self.require_time()
                            start += len(chunk)
                            counter.add(len(chunk))
                            yield chunk
                        if start < file.size_bytes:
                            raise Interrupted(f"{file.uri} ended before its end")
                    except Interrupted:
                        if start - begin < PROGRESS_BYTES:
                            raise

    def wait_for_other(self) -> None:
        """Pause while another process downloads the same file."""
        self.require_time()
        time.sleep(LOCK_POLL_SECONDS)

    def seconds_left(self) -> float:
        """Until the time for downloads is over."""
        return max(0.0, self.deadline - time.monotonic())

    def require_time(self) -> None:
        """Raises `SourceError` once the time for downloads is over."""
        if time.monotonic() > self.deadline:
            raise SourceError(
                "source_unreachable",
                f"the download took longer than {self._seconds:g} seconds (SGLP_SOURCE_SECONDS); submit the "
                "job again, and it goes on from where it was",
            )

    def _repeat(self, request: Callable[[], Answer]) -> Answer:
        return self._retrying()(request)

    def _retrying(self) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(Interrupted),
            stop=stop_after_attempt(ATTEMPTS),
            wait=self._pause_seconds,
            before=lambda _state: self.require_time(),
            retry_error_callback=_give_up,
        )

    def _pause_seconds(self, state: RetryCallState) -> float:
        pause = wait_exponential(multiplier=FIRST_PAUSE_SECONDS)(state)
        return min(pause, self.seconds_left())


class ByteCounter:
    """Counts the bytes of a download, and reports them not more often than every `REPORT_SECONDS`."""

    def __init__(self, report: Callable[[int, int], None], total_bytes: int) -> None:
        self._report, self._total_bytes = report, total_bytes
        self._done_bytes, self._reported_at = 0, 0.0

    def add(self, count: int) -> None:
        self._done_bytes += count
        if self._done_bytes >= self._total_bytes or time.monotonic() - self._reported_at > REPORT_SECONDS:
            self._reported_at = time.monotonic()
            self._report(min(self._done_bytes, self._total_bytes), self._total_bytes)

    def raise_to(self, done_bytes: int) -> None:
        """Count at least `done_bytes`: another process may have downloaded some of them."""
        self.add(max(0, done_bytes - self._done_bytes))


def _give_up(state: RetryCallState) -> NoReturn:
    error = state.outcome and state.outcome.exception()
    raise SourceError(
        "source_unreachable", f"the connection failed {ATTEMPTS} times in a row: {error}; submit the job again"
    ) from None
