"""Webhook endpoints and deliveries as tenants send and see them."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from jobs.tables import WebhookEndpoint

EventType = Literal["job.succeeded", "job.failed", "job.cancelled"]
EventTypes = Annotated[tuple[EventType, ...], Field(min_length=1, max_length=3)]
ALL: EventTypes = ("job.succeeded", "job.failed", "job.cancelled")


class NewEndpoint(BaseModel):
    """An `https://` address that takes POST requests, and the events that are sent to it."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=2048)]
    event_types: EventTypes = ALL


class EndpointChange(BaseModel):
    """The fields to change; the others stay as they are. `enabled: true` also revives an endpoint that was disabled."""

    model_config = ConfigDict(extra="forbid")

    event_types: EventTypes | None = None
    enabled: Annotated[bool, Field(strict=True)] | None = None


class EndpointView(BaseModel):
    """An endpoint without its secret."""

    id: str
    url: str
    event_types: list[str]
    enabled: bool
    disabled_reason: str | None
    created_at: datetime

    @classmethod
    def of(cls, endpoint: WebhookEndpoint, **more: Any) -> Self:
        return cls(
            id=endpoint.id,
            url=endpoint.url,
            event_types=endpoint.event_types,
            enabled=endpoint.disabled_reason is None,
            disabled_reason=endpoint.disabled_reason,
            created_at=endpoint.created_at,
            **more,
        )


class EndpointWithSecret(EndpointView):
    """An endpoint with the secret that its deliveries are signed with; it is shown this once."""

    secret: str


class EndpointList(BaseModel):
    """A tenant's endpoints."""

    data: list[EndpointView]


class DeliveryView(BaseModel):
    """One event for one endpoint; `id` is the `webhook-id` of every try."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    job_id: str
    event_type: str
    created_at: datetime
    attempts: int
    next_at: datetime | None
    delivered_at: datetime | None
    last_status: int | None
    last_error: str | None


class DeliveryList(BaseModel):
    """Deliveries, newest first."""

    data: list[DeliveryView]
