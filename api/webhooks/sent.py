"""The requests that the service sends to webhook endpoints, described for the OpenAPI document. The worker sends them
(`worker/upkeep/webhook_delivery.py`).
"""

from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Header
from pydantic import BaseModel, Field

from api.webhooks.schemas import ALL, EventType


class WebhookJobLinks(BaseModel):
    """Where to read more, with an API key; relative to the service."""

    self: str = Field(examples=["/v1/jobs/job_01kdjynm5pqmbrw2x6cjnkf1sx"])


class WebhookJob(BaseModel):
    """The job that has ended."""

    id: str = Field(examples=["job_01kdjynm5pqmbrw2x6cjnkf1sx"])
    status: Literal["succeeded", "failed", "cancelled"]
    links: WebhookJobLinks


class JobEnded(BaseModel):
    """What an endpoint receives when a job has ended; `timestamp` is the time of the event."""

    type: EventType
    timestamp: datetime
    data: WebhookJob


router = APIRouter(tags=["webhooks"])


def _receive(
    body: JobEnded,
    webhook_id: Annotated[str, Header(description="the same at every attempt to deliver this event")],
    webhook_timestamp: Annotated[str, Header(description="when this attempt was signed, in seconds since 1970")],
    webhook_signature: Annotated[str, Header(description="signatures by the endpoint's secrets: `v1,…`, by spaces")],
) -> None:
    """Signed as [Standard Webhooks](https://www.standardwebhooks.com) specifies. Any status from 200 to 299 accepts the
    delivery, and 410 disables the endpoint; anything else is tried again for about three days.
    """


for event_type in ALL:
    router.add_api_route(
        event_type,
        _receive,
        methods=["POST"],
        name=event_type.replace(".", "_"),
        summary=f"{event_type.removeprefix('job.').capitalize()} job",
        status_code=HTTPStatus.NO_CONTENT,
        openapi_extra={"security": []},
    )
