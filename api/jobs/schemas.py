"""Jobs, events and artifacts as the API shows them."""

from datetime import datetime
from typing import Annotated, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from api.protocol.pages import Page
from api.protocol.stored_json import DescribedAs
from jobs.errors import JobError
from jobs.progress import Plan, Progress, Resolved
from jobs.repository import Place
from jobs.results import JobResult
from jobs.spec import JobSpec
from jobs.states import State
from jobs.tables import Artifact, Job, JsonObject


class QueuePlace(BaseModel):
    """Where a waiting job stands among those of all tenants for its GPU class, if nothing more was submitted.

    `position` 1 is the next to start. `expected_start_seconds` is estimated from how long the last attempts took; null
    where nothing runs, or nothing has run that it could be known from.
    """

    model_config = ConfigDict(from_attributes=True)

    position: int
    expected_start_seconds: int | None


class JobView(BaseModel):
    """A job. `version` grows with every visible change.

    `queue` is there while the job waits and is asked for by its id; it may be some seconds old. `resolved` appears once
    the model has been read, `plan` once it was chosen, and `result` when the job has succeeded.
    """

    id: str
    object: Literal["compression.job"] = "compression.job"
    status: State
    queue: QueuePlace | None
    phase: str | None
    progress: Progress | None
    spec: Annotated[JobSpec | JsonObject, DescribedAs(JobSpec)]
    resolved: Annotated[JsonObject | None, DescribedAs(Resolved | None)]
    plan: Annotated[JsonObject | None, DescribedAs(Plan | None)]
    result: Annotated[JsonObject | None, DescribedAs(JobResult | None)]
    error: JobError | None
    attempt: int
    retry_of: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    version: int
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, spec: JobSpec | None = None, place: Place | None = None) -> Self:
        """Without `spec`, the specification is read from the row."""
        path = job_path(job.id)
        return cls(
            id=job.id,
            status=State(job.state),
            queue=place and QueuePlace.model_validate(place),
            phase=job.phase,
            progress=Progress.model_validate(job.progress) if job.progress else None,
            spec=spec or _spec_of(job),
            resolved=job.resolved,
            plan=job.plan,
            result=job.result,
            error=JobError.model_validate(job.error) if job.error else None,
            attempt=job.attempt,
            retry_of=job.retry_of,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            version=job.version,
            links={
                "self": path,
                **{
                    name: f"{path}/{name}"
                    for name in ("events", "artifacts", "similarity", "layers", "report", "cancel", "retry")
                },
            },
        )


def _spec_of(job: Job) -> JobSpec | JsonObject:
    """With what a job of an earlier release did not name; one of a later release is shown as it was stored."""
    try:
        return JobSpec.model_validate(job.spec)
    except ValidationError:
        return job.spec


class JobPage(Page[JobView]):
    """A page of jobs, newest first."""


class ArtifactView(BaseModel):
    """A published file."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    created_at: datetime
    expires_at: datetime | None
    link: str

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        return cls(
            name=artifact.name,
            media_type=artifact.media_type,
            size_bytes=artifact.size_bytes,
            sha256=artifact.sha256,
            created_at=artifact.created_at,
            expires_at=artifact.expires_at,
            link=f"{job_path(artifact.job_id)}/artifacts/{quote(artifact.name)}",
        )


class ArtifactList(BaseModel):
    """The files of a job."""

    data: list[ArtifactView]


class SignedLink(BaseModel):
    """An address from which a file can be read without a key."""

    url: str


def job_path(job_id: str) -> str:
    """The path of a job; without a host, so that it is right behind any proxy."""
    return f"/v1/jobs/{job_id}"
