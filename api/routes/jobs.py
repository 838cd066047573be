"""Jobs: submit, list, get, cancel, and their events."""

import base64
import binascii
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.dependencies import JOB_ID, JobId, ServiceSettings, Sessions, Tenant, found
from api.problems import Problem
from api.representations import EventPage, JobPage, JobView, job_path
from jobs.database import transaction
from jobs.repository import JobRepository
from jobs.spec import JobSpec
from jobs.states import State
from jobs.uris import check_root

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("", status_code=HTTPStatus.ACCEPTED)
def submit(spec: JobSpec, response: Response, sessions: Sessions, tenant: Tenant, settings: ServiceSettings) -> JobView:
    """Submit a job. Once this has answered 202, the job will end, whatever process dies meanwhile."""
    for pointer, uri in spec.uris().items():
        check_root(pointer, uri, settings.model_roots)
    with transaction(sessions) as session:
        job = JobRepository(session).submit(tenant, spec, max_attempts=settings.max_attempts)
    response.headers["Location"] = job_path(job.id)
    return JobView.of(job)


@router.get("")
def listing(
    sessions: Sessions,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
    status: State | None = None,
) -> JobPage:
    """Jobs, newest first."""
    before = None if after is None else _read_cursor(after)
    with transaction(sessions) as session:
        jobs = JobRepository(session).page(tenant, limit=limit + 1, before=before, status=status)
    shown, has_more = jobs[:limit], len(jobs) > limit
    cursor = _cursor(shown[-1].id) if has_more else None
    return JobPage(data=[JobView.of(job) for job in shown], has_more=has_more, next_cursor=cursor)


@router.get("/{job_id}")
def get(job_id: JobId, sessions: Sessions, tenant: Tenant) -> JobView:
    """One job."""
    with transaction(sessions) as session:
        return JobView.of(found(JobRepository(session).get(tenant, job_id), job_id))


@router.post("/{job_id}/cancel", responses={202: {"model": JobView}})
def cancel(job_id: JobId, response: Response, sessions: Sessions, tenant: Tenant) -> JobView:
    """Cancel a job: 200 once it is cancelled, 202 while a worker stops it, 409 if it has ended otherwise."""
    with transaction(sessions) as session:
        job = found(JobRepository(session).cancel(tenant, job_id), job_id)
    if job.state == State.CANCELLING:
        response.status_code = HTTPStatus.ACCEPTED
    elif job.state != State.CANCELLED:
        raise Problem(HTTPStatus.CONFLICT, f"{job_id} has already {job.state}")
    return JobView.of(job)


@router.get("/{job_id}/events")
def events(
    job_id: JobId,
    sessions: Sessions,
    tenant: Tenant,
    after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EventPage:
    """What has happened to a job, in order."""
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        found(jobs.get(tenant, job_id), job_id)
        page = jobs.events(tenant, job_id, after=after, limit=limit + 1)
    return EventPage.of(page[:limit], has_more=len(page) > limit)


def _cursor(job_id: str) -> str:
    return base64.urlsafe_b64encode(job_id.encode()).decode()


def _read_cursor(cursor: str) -> str:
    try:
        job_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        job_id = ""
    if not JOB_ID.fullmatch(job_id):
        errors = [{"parameter": "after", "detail": "not a cursor of this service"}]
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the cursor cannot be read", errors=errors)
    return job_id
