"""Jobs: list, get, cancel, delete, and their events."""

import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool

from api.audit import Action
from api.dependencies import JobId, Sessions, Tenant, Watcher, job_or_404
from api.events.schemas import EventPage
from api.events.stream import stream_events
from api.events.watcher import JobWatcher
from api.jobs.outlooks import Outlooks
from api.jobs.schemas import JobPage, JobView
from api.protocol.conditional import etag_of, is_known, wanted_wait
from api.protocol.negotiation import negotiate
from api.protocol.pages import After, Limit
from api.protocol.problems import Problem
from api.protocol.query_parameters import members
from jobs.database import transaction
from jobs.repository import JobRepository, RankedJob
from jobs.states import TERMINAL, State

EVENT_STREAM = "text/event-stream"
# FastAPI cannot declare an object in the query.
METADATA = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "only jobs with this text in their metadata: `metadata[name]=text`",
    "schema": {
        "type": "object",
        "propertyNames": {"minLength": 1, "maxLength": 200, "pattern": r"^[^\x00]*$"},
        "additionalProperties": {"type": "string", "pattern": r"^[^\x00]*$"},
    },
}


def _dated(text: object) -> object:
    """Numbers would be read as seconds since 1970."""
    if isinstance(text, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", text):
        raise ValueError("must be a time such as 2026-11-24T12:00:00Z")
    return text


Time = Annotated[AwareDatetime, BeforeValidator(_dated)]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("", openapi_extra={"parameters": [METADATA]})
def list_jobs(
    request: Request,
    sessions: Sessions,
    tenant: Tenant,
    limit: Limit = 20,
    after: After = None,
    status: State | None = None,
    created_after: Annotated[Time | None, Query(description="only jobs made after this time")] = None,
) -> JobPage:
    """Jobs, newest first."""
    metadata = members(request, "metadata")
    if any("\0" in text for text in metadata.values()):
        errors = [{"parameter": "metadata", "detail": "must have no NUL"}]
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the filter cannot match anything", errors=errors)
    with transaction(sessions) as session:
        jobs = JobRepository(session).page(
            tenant, limit=limit + 1, before=after, status=status, created_after=created_after, metadata=metadata
        )
    return JobPage.of(jobs, limit, JobView.of, lambda job: job.id)


@router.get("/{job_id}", responses={304: {"description": "It has not changed"}}, response_model=JobView)
async def get_job(job_id: JobId, request: Request, tenant: Tenant) -> Response:
    """One job. With `If-None-Match` the answer is 304 while the job and its position in the queue are unchanged.

    `Prefer: wait=30` waits up to 30 seconds, at most 60, for a change.
    """
    # Not as dependencies: this is asked for most, and each would cost a fiftieth of an answer.
    sessions: sessionmaker[Session] = request.app.state.sessions
    watcher: JobWatcher = request.app.state.watcher
    outlooks: Outlooks = request.app.state.outlooks

    def read() -> RankedJob:
        with transaction(sessions) as session:
            return job_or_404(JobRepository(session).get_ranked(tenant, job_id), job_id)

    ranked = await run_in_threadpool(read)
    place = await outlooks.place(ranked)
    wait_seconds = wanted_wait(request)
    has_changed = "if-none-match" in request.headers and not is_known(request, ranked.job, place)
    if wait_seconds and not has_changed and ranked.job.state not in TERMINAL:
        await watcher.changed(job_id, ranked.job.version, wait_seconds)
        ranked = await run_in_threadpool(read)
        place = await outlooks.place(ranked)
    headers = {"ETag": etag_of(ranked.job, place), "Cache-Control": "private, no-cache"}
    if wait_seconds:
        headers["Preference-Applied"] = f"wait={wait_seconds}"
    if is_known(request, ranked.job, place):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    # Serialised here: the framework would validate the new object once more.
    content = JobView.of(ranked.job, place=place).model_dump_json()
    return Response(content, headers=headers, media_type="application/json")


@router.delete("/{job_id}", status_code=HTTPStatus.NO_CONTENT)
def delete_job(job_id: JobId, action: Action, tenant: Tenant) -> None:
    """Delete a job that has ended, with its events, analysis and files."""
    with action.transaction() as session:
        deleted = JobRepository(session).delete(tenant, job_id)
        if deleted is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"there is no job {job_id}")
        if not deleted:
            raise Problem(HTTPStatus.CONFLICT, f"{job_id} has not ended; cancel it first")


@router.post("/{job_id}/cancel", responses={202: {"model": JobView}})
def cancel_job(job_id: JobId, response: Response, action: Action, tenant: Tenant) -> JobView:
    """Cancel a job: 200 once it is cancelled, 202 while a worker stops it, 409 if it has ended otherwise."""
    with action.transaction() as session:
        job = job_or_404(JobRepository(session).cancel(tenant, job_id), job_id)
        if job.state not in {State.CANCELLING, State.CANCELLED}:
            raise Problem(HTTPStatus.CONFLICT, f"{job_id} has already {job.state}")
    if job.state == State.CANCELLING:
        response.status_code = HTTPStatus.ACCEPTED
    return JobView.of(job)


@router.get(
    "/{job_id}/events",
    response_model=EventPage,
    responses={
        200: {"content": {EVENT_STREAM: {}}},
        204: {"description": "The client has received every event, and the job has ended"},
    },
)
def list_events(
    job_id: JobId,
    request: Request,
    sessions: Sessions,
    tenant: Tenant,
    watcher: Watcher,
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**31)] = None,
) -> Any:
    """The events of a job in order: a page, or with `Accept: text/event-stream` every event as it happens.

    A stream starts after the event `after`, or after `Last-Event-ID` when a client reconnects, and closes after the
    last event of the job. A client that reconnects after that gets 204, on which browsers stop reconnecting.
    """
    media_type = negotiate(request, ("application/json", EVENT_STREAM))
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        job = job_or_404(jobs.get(tenant, job_id), job_id)
        page = jobs.events(tenant, job_id, after=after, limit=limit + 1)
    if media_type == EVENT_STREAM:
        seen = after if last_event_id is None else last_event_id
        if job.state in TERMINAL and seen >= job.last_event_seq:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        return stream_events(watcher, job_id, seen)
    return EventPage.of(page[:limit], has_more=len(page) > limit)
