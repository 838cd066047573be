"""A job's events as they happen, as server-sent events: the same rows that the pages show."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse

from api.events.watcher import JobWatcher

KEEPALIVE_SECONDS = 15.0


def stream_events(watcher: JobWatcher, job_id: str, after: int) -> StreamingResponse:
    """A stream that begins behind the event `after` and closes after the job's last."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept"}
    return EventSourceResponse(_events(watcher, job_id, after), headers=headers)


async def _events(watcher: JobWatcher, job_id: str, after: int) -> AsyncIterator[bytes]:
    # The headers go out with the first bytes, and a browser waits for them.
    yield KEEPALIVE_COMMENT
    while not watcher.closing:
        events = await watcher.events(job_id, after, KEEPALIVE_SECONDS)
        if events is None:
            return
        if not events:
            yield KEEPALIVE_COMMENT
        for event in events:
            after = event.seq
            yield event.content
            if event.is_last:
                return
