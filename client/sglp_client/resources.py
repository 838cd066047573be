"""What the service answers, as types. They describe the JSON and check nothing; times are ISO 8601 texts in UTC."""

from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

# Job specifications, reports and the data of events: the OpenAPI document of the service describes them.
Json = dict[str, Any]

JobStatus = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
UploadKind = Literal["dataset", "model"]

Item = TypeVar("Item")


class Progress(TypedDict):
    """`done` of `total` units of the running phase."""

    done: int
    total: int
    unit: str
    eta_seconds: int | None


class JobError(TypedDict):
    """Why a job failed; `code` is one of the documented error codes."""

    code: str
    message: str
    phase: str | None
    attempt: int
    retryable: bool


class QueuePlace(TypedDict):
    """Where a waiting job stands: `position` 1 is the next to start; the seconds until then are an estimate."""

    position: int
    expected_start_seconds: int | None


class Job(TypedDict):
    """A job; `version` grows with every visible change."""

    id: str
    object: Literal["compression.job"]
    status: JobStatus
    queue: QueuePlace | None
    phase: str | None
    progress: Progress | None
    spec: Json
    resolved: Json | None
    plan: Json | None
    result: Json | None
    error: JobError | None
    attempt: int
    retry_of: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    version: int
    links: dict[str, str]


class Event(TypedDict):
    """Something that happened to a job; `seq` counts from 1 without gaps."""

    seq: int
    type: str
    data: Json
    created_at: str


class Artifact(TypedDict):
    """A published file."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: str
    expires_at: str | None
    link: str


class UploadFile(TypedDict):
    """A file of an upload; `link` takes its content by PUT."""

    name: str
    size_bytes: int
    sha256: str
    link: str


class UploadAddress(TypedDict):
    """Where a file is sent by PUT: if `signed`, to the object store and without an API key, else to the service."""

    url: str
    signed: bool
    expires_in_seconds: int | None


class Upload(TypedDict):
    """An upload; once it is `ready`, jobs can read it by its `uri`."""

    id: str
    object: Literal["upload"]
    name: str
    kind: UploadKind
    status: Literal["open", "ready"]
    uri: str
    size_bytes: int
    files: list[UploadFile]
    created_at: str
    completed_at: str | None
    expires_at: str | None
    links: dict[str, str]


class Quotas(TypedDict):
    """The most that a tenant may have at a time; null is no limit. `weight` is its share of the workers."""

    queued_jobs: int | None
    running_jobs: int | None
    stored_bytes: int | None
    weight: float


class Deletion(TypedDict):
    """What is left of a tenant that is being deleted."""

    requested_at: str
    unfinished_jobs: int
    ended_jobs: int
    deleted_jobs: int
    uploads: int


class Tenant(TypedDict):
    """A tenant; `deletion` is null unless it is being deleted."""

    name: str
    created_at: str
    quotas: Quotas
    deletion: Deletion | None


class ApiKey(TypedDict):
    """An API key; only the answer to its creation has the `key` itself."""

    id: str
    tenant: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None
    key: NotRequired[str]


class WebhookEndpoint(TypedDict):
    """An endpoint; only the answers to its creation and to the rotation of its secret have the `secret`."""

    id: str
    url: str
    event_types: list[str]
    enabled: bool
    disabled_reason: str | None
    created_at: str
    secret: NotRequired[str]


class WebhookDelivery(TypedDict):
    """One event for one endpoint; every attempt to send it has `id` as its `webhook-id`."""

    id: str
    job_id: str
    event_type: str
    created_at: str
    attempts: int
    next_at: str | None
    delivered_at: str | None
    last_status: int | None
    last_error: str | None


class Page(TypedDict, Generic[Item]):
    """One page of a list. `next_cursor` is the `after` of the next page; events are paged by `seq` and have none."""

    data: list[Item]
    has_more: bool
    next_cursor: NotRequired[str | None]


class Listing(TypedDict, Generic[Item]):
    """A list that has no pages."""

    data: list[Item]
