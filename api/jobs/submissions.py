"""New jobs: submitted, or submitted again. The same request sent twice with one key makes one job."""

import hashlib
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.audit import Action, ActionOfRequest
from api.dependencies import JobId, ServiceSettings, Tenant, job_or_404
from api.jobs.schemas import JobView, job_path
from api.protocol.problems import Problem
from api.protocol.strict_json import StrictRoute
from jobs.ceilings import check_ceilings
from jobs.locations.destinations import destination_of
from jobs.locations.uris import check_place, check_root
from jobs.repository import IdempotentRequest, JobDeleted, JobRepository, KeyReused, Origin, SubmissionRepository
from jobs.settings import Settings
from jobs.spec import JobSpec
from jobs.states import TERMINAL

IdempotencyKey = Annotated[
    str | None, Header(pattern=r"^[\x21-\x7e]{1,255}$", description="Makes it safe to send the request again")
]

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)


@router.post("", status_code=HTTPStatus.ACCEPTED, response_model=JobView)
def create_job(
    spec: JobSpec,
    action: Action,
    tenant: Tenant,
    settings: ServiceSettings,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a job. After a 202 the job is stored and will end, even if processes of the service die meanwhile.

    The same request with the same `Idempotency-Key` within 24 hours answers with the job that it made the first time.
    """
    # Without default values, so that a field which a later version adds does not change the fingerprint.
    asked = json.dumps(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=True)

    def check(_session: Session) -> JobSpec:
        return _checked(spec, tenant, settings)

    return _submit(check, _request(idempotency_key, f"submit {asked}"), action, tenant, settings)


@router.post("/{job_id}/retry", status_code=HTTPStatus.ACCEPTED, response_model=JobView)
def retry_job(
    job_id: JobId,
    action: Action,
    tenant: Tenant,
    settings: ServiceSettings,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Submit a job that has ended once more: a new job with the same specification, whose `retry_of` is the old id."""

    def look_up(session: Session) -> JobSpec:
        job = job_or_404(JobRepository(session).get(tenant, job_id), job_id)
        if job.state not in TERMINAL:
            raise Problem(HTTPStatus.CONFLICT, f"{job_id} is {job.state}; only a job that has ended can be retried")
        try:
            spec = JobSpec.model_validate(job.spec)
        except ValidationError:
            detail = f"{job_id} was specified for a later release than this; update the service, then retry it"
            raise Problem(HTTPStatus.CONFLICT, detail) from None
        return _checked(spec, tenant, settings)

    return _submit(look_up, _request(idempotency_key, f"retry {job_id}"), action, tenant, settings, retry_of=job_id)


def _checked(spec: JobSpec, tenant: str, settings: Settings) -> JobSpec:
    check_ceilings(spec, settings)
    for pointer, uri in spec.uris().items():
        check_root(pointer, uri, settings.model_roots)
        check_place(pointer, uri, settings.sources)
    if spec.output.uri is not None:
        destination_of("/output/uri", spec.output.uri, settings.output_destinations, tenant)
    return spec


def _request(key: str | None, asked: str) -> IdempotentRequest | None:
    return IdempotentRequest(key, hashlib.sha256(asked.encode()).hexdigest()) if key else None


def _submit(
    find_spec: Callable[[Session], JobSpec],
    request: IdempotentRequest | None,
    action: ActionOfRequest,
    tenant: str,
    settings: Settings,
    *,
    retry_of: str | None = None,
) -> Response:
    """`find_spec` is only called where the request has made no job yet: since it did, the specification may have become
    forbidden, or the job to retry deleted.
    """
    try:
        with action.transaction() as session:
            submissions = SubmissionRepository(session)
            job = submissions.earlier(tenant, request) if request else None
            spec, replayed = None, True
            if job is None:
                spec = find_spec(session)
                job, replayed = submissions.submit(
                    tenant,
                    spec,
                    request,
                    max_attempts=settings.max_attempts,
                    max_queued=settings.tenant_max_queued_jobs,
                    origin=Origin(retry_of, action.traceparent),
                )
            action.subject = job.id
    except KeyReused:
        detail = "this Idempotency-Key was used for another request within the last 24 hours"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="idempotency_key_reused") from None
    except JobDeleted:
        raise Problem(HTTPStatus.GONE, "the job that this Idempotency-Key has made was deleted") from None
    headers = {"Location": job_path(job.id)}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    # Serialised here: the framework would validate the new object once more. A job that an earlier request has made has
    # the specification of its row.
    content = JobView.of(job, None if replayed else spec).model_dump_json()
    return Response(content, HTTPStatus.ACCEPTED, headers, "application/json")
