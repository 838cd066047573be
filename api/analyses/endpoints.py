"""The similarity matrix, the table of layers and the report of a job."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from markdown_it import MarkdownIt
from pydantic import BaseModel

from api.analyses import similarity_formats
from api.artifacts.download import PARTS, deliver
from api.dependencies import JobId, Sessions, Store, Tenant, expired, job_or_404
from api.jobs.schemas import job_path
from api.openapi import OpenAPIObject
from api.protocol.negotiation import negotiate
from api.protocol.problems import Problem
from api.protocol.stored_json import DescribedAs
from jobs.artifacts import ArtifactStore, checked
from jobs.database import transaction
from jobs.repository import JobRepository
from jobs.results import LayerRow, Similarity
from jobs.states import TERMINAL
from jobs.tables import Analysis, Artifact, Job, JsonObject

SIMILARITY_TYPES = ("application/json", "text/csv", "application/x-npy", "image/png")
TEXT: OpenAPIObject = {"type": "string"}
SIMILARITY_RESPONSES: dict[int | str, OpenAPIObject] = {
    200: {"model": Similarity, "content": {each: {} for each in SIMILARITY_TYPES[1:]}},
    **PARTS,
}
PICTURES = {"sweep.png": "quality against size and time", "similarity.png": "similarity of the layers"}
REPORT_TYPES = ("application/json", "text/markdown", "text/html")
# The report differs by mode, and another version may have written it: this document names the schema.
REPORT: OpenAPIObject = {
    "title": "Report",
    "type": "object",
    "description": "The artifact `report.json`. The JSON Schema `docs/report.schema.json` describes its fields.",
}
REPORT_RESPONSES: dict[int | str, OpenAPIObject] = {
    200: {"content": {each: {"schema": REPORT if each == REPORT_TYPES[0] else TEXT} for each in REPORT_TYPES}},
    **PARTS,
}
STYLE = "body{font:16px sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em}img{max-width:100%}"


class LayerTable(BaseModel):
    """The layers of a model, from the first to the last."""

    data: Annotated[list[JsonObject], DescribedAs(list[LayerRow])]


router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["analyses"])


@router.get("/similarity", response_class=JSONResponse, responses=SIMILARITY_RESPONSES)
def get_similarity(job_id: JobId, request: Request, sessions: Sessions, store: Store, tenant: Tenant) -> Response:
    """The similarity matrix of the layers, as JSON, CSV, npy or a picture."""
    media_type = negotiate(request, SIMILARITY_TYPES)
    if media_type == "image/png":
        return deliver(request, store, _artifact(sessions, tenant, job_id, "similarity.png"), inline=True)
    analysis = _analysis(sessions, tenant, job_id)
    vary = {"Vary": "Accept"}
    if media_type == "text/csv":
        return PlainTextResponse(similarity_formats.as_csv(analysis), headers=vary, media_type=media_type)
    if media_type == "application/x-npy":
        return Response(similarity_formats.as_npy(analysis), headers=vary, media_type=media_type)
    return JSONResponse(similarity_formats.as_document(analysis).model_dump(), headers=vary)


@router.get("/layers")
def list_layers(job_id: JobId, sessions: Sessions, tenant: Tenant) -> LayerTable:
    """One row per layer: name, parameters, FLOPs, segment, every importance criterion, removed or not, and why."""
    return LayerTable(data=_analysis(sessions, tenant, job_id).layers)


@router.get("/report", response_class=Response, responses=REPORT_RESPONSES)
def get_report(job_id: JobId, request: Request, sessions: Sessions, store: Store, tenant: Tenant) -> Response:
    """Before and after, the controls and the proof that the model loads, as JSON, Markdown or a page."""
    media_type = negotiate(request, REPORT_TYPES)
    if media_type == "application/json":
        return deliver(request, store, _artifact(sessions, tenant, job_id, "report.json"), inline=True)
    markdown = _artifact(sessions, tenant, job_id, "report.md")
    if media_type == "text/markdown":
        return deliver(request, store, markdown, inline=True)
    with transaction(sessions) as session:
        pictures = [name for name in PICTURES if JobRepository(session).artifact(tenant, job_id, name)]
    return HTMLResponse(_page(job_id, _text(store, markdown), pictures), headers={"Vary": "Accept"})


def _analysis(sessions: Sessions, tenant: str, job_id: str) -> Analysis:
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        job = job_or_404(jobs.get(tenant, job_id), job_id)
        return jobs.analysis(tenant, job_id) or _not_there(job)


def _artifact(sessions: Sessions, tenant: str, job_id: str, name: str) -> Artifact:
    with transaction(sessions) as session:
        jobs = JobRepository(session)
        job = job_or_404(jobs.get(tenant, job_id), job_id)
        artifact: Artifact = jobs.artifact(tenant, job_id, name) or _not_there(job)
        if jobs.expired(artifact):
            raise expired(job_id)
        return artifact


def _not_there(job: Job) -> Any:
    """409 where waiting helps, 404 where it does not."""
    status = HTTPStatus.NOT_FOUND if job.state in TERMINAL else HTTPStatus.CONFLICT
    raise Problem(status, f"{job.id} is {job.state}; its findings are published when it succeeds")


def _text(store: ArtifactStore, artifact: Artifact) -> str:
    return b"".join(checked(store.stream(artifact.key), artifact.key, artifact.sha256)).decode()


def _page(job_id: str, markdown: str, pictures: list[str]) -> str:
    # The report contains names from the model's files, so HTML in it is escaped.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    shown = "".join(
        f'<p><img alt="{PICTURES[name]}" src="{job_path(job_id)}/artifacts/{name}"></p>' for name in pictures
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{job_id}</title><style>{STYLE}</style>'
        f"</head><body>{body}{shown}</body></html>"
    )
