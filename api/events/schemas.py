"""Events as the API shows them."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from jobs.tables import Event


class EventView(BaseModel):
    """Something that happened to a job; `seq` counts from 1 without gaps."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    type: str
    data: dict[str, Any]
    created_at: datetime


class EventPage(BaseModel):
    """Some events in order; the `seq` of the last is the `after` of the next page."""

    data: list[EventView]
    has_more: bool

    @classmethod
    def of(cls, events: list[Event], *, has_more: bool) -> Self:
        return cls(data=[EventView.model_validate(event) for event in events], has_more=has_more)
