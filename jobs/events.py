"""The events of a job: what their `data` holds, by type. Rows of an older version are shown as they are."""

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from jobs.errors import JobError

RequeueReason = Literal["lease_expired", "worker_shutdown", "storage_unavailable"]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True)


class NoData(_Data):
    """Nothing to add to the event's type."""


class AttemptStarted(_Data):
    """Which attempt starts; the first is 1."""

    attempt: int


class PhaseStarted(_Data):
    """The phase that starts, such as `measuring`."""

    phase: str


class Requeued(_Data):
    """Why the job waits for another attempt."""

    reason: RequeueReason


class Deferred(_Data):
    """Why no worker that has looked at the job takes it; of a later release, another may. Said once while it waits."""

    reason: Literal["specification_not_understood"]


class Judged(_Data):
    """What held-out samples say of a model that is healed, after so many steps: loss and KL in nats a position, and the
    shares of positions that are right and that agree with the dense model. `null` stands for NaN and infinities.

    `samples_per_second` is the speed of the training since the judgement before; `null` for the first.
    """

    step: int
    loss: float | None
    kl: float | None
    accuracy: float | None
    agreement: float | None
    samples_per_second: float | None


EventData = NoData | AttemptStarted | PhaseStarted | Judged | Requeued | Deferred | JobError
EventType = Literal[
    "queued", "running", "phase", "judged", "requeued", "deferred", "cancelling", "succeeded", "failed", "cancelled"
]


class NewEvent(NamedTuple):
    """An event to be written with the change that causes it."""

    type: EventType
    data: EventData


class _Event(BaseModel):
    seq: Annotated[int, Field(ge=1, description="counts from 1 without gaps")]
    created_at: datetime


class PlainEvent(_Event):
    """The job was queued at first, is being cancelled, or has ended without an error."""

    type: Literal["queued", "cancelling", "succeeded", "cancelled"]
    data: NoData


class RunningEvent(_Event):
    """A worker has started an attempt."""

    type: Literal["running"]
    data: AttemptStarted


class PhaseEvent(_Event):
    """A phase of the running attempt has started."""

    type: Literal["phase"]
    data: PhaseStarted


class JudgedEvent(_Event):
    """The model that is healed was judged on held-out samples."""

    type: Literal["judged"]
    data: Judged


class RequeuedEvent(_Event):
    """The attempt ended without a result, and the job waits for another one."""

    type: Literal["requeued"]
    data: Requeued


class DeferredEvent(_Event):
    """A worker of an earlier release does not understand the job, which waits for one that does."""

    type: Literal["deferred"]
    data: Deferred


class FailedEvent(_Event):
    """The job has failed."""

    type: Literal["failed"]
    data: JobError


JobEvent = TypeAliasType(
    "JobEvent",
    Annotated[
        PlainEvent | RunningEvent | PhaseEvent | JudgedEvent | RequeuedEvent | DeferredEvent | FailedEvent,
        Field(discriminator="type"),
    ],
)
