"""A job's published files, one by one or as one tar."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import JsonValue

from api.artifacts.download import PARTS, deliver
from api.artifacts.tar_stream import tar_size, tar_stream
from api.audit import Action
from api.dependencies import JobId, Sessions, Store, Tenant, expired, job_or_404
from api.jobs.schemas import ArtifactList, ArtifactView, SignedLink
from api.openapi import OpenAPIObject
from api.protocol.problems import Problem
from jobs.database import transaction
from jobs.repository import JobRepository

MODEL = "model/"
DOWNLOAD_RESPONSES: dict[int | str, OpenAPIObject] = {
    200: {
        "description": "The file, or its address where `redirect` is false",
        # A file may be JSON too.
        "model": SignedLink | JsonValue,
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    307: {
        "description": "The store has the file at a signed address, for some minutes",
        "headers": {"Location": {"required": True, "schema": {"type": "string", "format": "uri"}}},
    },
    **PARTS,
}

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["artifacts"])


@router.get("/artifacts")
def list_artifacts(job_id: JobId, sessions: Sessions, tenant: Tenant) -> ArtifactList:
    """The files of a job; none before it has succeeded."""
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        job_or_404(jobs.get(tenant, job_id), job_id)
        return ArtifactList(data=[ArtifactView.of(artifact) for artifact in jobs.artifacts(tenant, job_id)])


@router.head("/artifacts/{name:path}", response_model=None, include_in_schema=False)
@router.get("/artifacts/{name:path}", response_model=None, responses=DOWNLOAD_RESPONSES)
def download_artifact(
    job_id: JobId,
    name: Annotated[str, Path(max_length=512)],
    request: Request,
    action: Action,
    store: Store,
    tenant: Tenant,
    redirect: Annotated[bool, Query(description="false: the signed address as JSON instead of a redirect")] = True,
) -> Response | SignedLink:
    """One file: 307 to a signed address where the store can sign, otherwise its bytes, also by range."""
    with action.transaction() as session:
        jobs = JobRepository(session)
        job_or_404(jobs.get(tenant, job_id), job_id)
        # PostgreSQL has no text with NUL in it, so there is no file of such a name either.
        file = jobs.artifact(tenant, job_id, name) if "\0" not in name else None
        if file is None:
            raise Problem(HTTPStatus.NOT_FOUND, f"{job_id} has no artifact {name}")
        if jobs.expired(file):
            raise expired(job_id)
    if not redirect:
        return SignedLink(url=store.signed_url(file.key) or ArtifactView.of(file).link)
    return deliver(request, store, file)


@router.get("/artifacts.tar", response_class=Response, responses={200: {"content": {"application/x-tar": {}}}})
def download_model(job_id: JobId, action: Action, store: Store, tenant: Tenant) -> StreamingResponse:
    """The model directory as one tar."""
    with action.transaction() as session:
        jobs = JobRepository(session)
        job = job_or_404(jobs.get(tenant, job_id), job_id)
        files = [file for file in jobs.artifacts(tenant, job_id) if file.name.startswith(MODEL)]
        if not files:
            raise Problem(HTTPStatus.NOT_FOUND, f"{job_id} has made no model; it is {job.state}")
        if jobs.expired(files[0]):
            raise expired(job_id)
    headers = {
        "Content-Length": str(tar_size(files)),
        "Content-Disposition": f'attachment; filename="{job_id}.tar"',
    }
    # The store is asked before the answer begins, so that its absence is an answer and not a broken download.
    next(store.stream(files[0].key), b"")
    return StreamingResponse(tar_stream(store, files), headers=headers, media_type="application/x-tar")
