"""Events as the API shows them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict

from api.protocol.stored_json import DescribedAs
from jobs.events import JobEvent
from jobs.tables import Event, JsonObject


class EventView(BaseModel):
    """Something that happened to a job; `seq` counts from 1 without gaps."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    type: str
    data: JsonObject
    created_at: datetime


DescribedEvent = Annotated[EventView, DescribedAs(JobEvent)]


class EventPage(BaseModel):
    """Some events in order; the `seq` of the last is the `after` of the next page."""

    data: list[DescribedEvent]
    has_more: bool

    @classmethod
    def of(cls, events: Sequence[Event], *, has_more: bool) -> Self:
        return cls(data=[EventView.model_validate(event) for event in events], has_more=has_more)
