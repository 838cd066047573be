"""Events as they stand in a stream, made once for all who watch."""

from typing import NamedTuple, Self

from fastapi.sse import format_sse_event

from api.events.schemas import EventView
from jobs.states import TERMINAL
from jobs.tables import Event


class EventFrame(NamedTuple):
    """The bytes of one server-sent event; `is_last` of a job's end."""

    seq: int
    is_last: bool
    content: bytes

    @classmethod
    def of(cls, event: Event) -> Self:
        body = EventView.model_validate(event).model_dump_json()
        return cls(
            event.seq, event.type in TERMINAL, format_sse_event(data_str=body, event=event.type, id=str(event.seq))
        )
