"""The OpenAPI document: every error as the problem it is, and where a job's links lead."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.protocol.problems import MEDIA_TYPE
from jobs.errors import REASONS

PROBLEM = {
    "title": "Problem",
    "type": "object",
    "description": "An error (RFC 9457). `errors` says what is wrong with which part of the request.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "example": "about:blank"},
        "title": {"type": "string", "example": "Unprocessable Content"},
        "status": {"type": "integer", "example": 422},
        "detail": {"type": "string", "example": "the request does not have the documented form"},
        "code": {"type": "string", "description": "what programs tell errors of one status apart by"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body"},
                    "parameter": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
LINKED = {
    "get": "get_v1_jobs__job_id__get",
    "events": "events_v1_jobs__job_id__events_get",
    "cancel": "cancel_v1_jobs__job_id__cancel_post",
    "retry": "retry_v1_jobs__job_id__retry_post",
    "artifacts": "listing_v1_jobs__job_id__artifacts_get",
}
SUBMISSIONS = ("/v1/jobs", "/v1/jobs/{job_id}/retry")
UNUSED = ("HTTPValidationError", "ValidationError")


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        error = {
            "description": "An error",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                responses = operation["responses"]
                responses.pop("422", None)
                responses["4XX"] = responses["5XX"] = error
        for path in SUBMISSIONS:
            responses = document["paths"][path]["post"]["responses"]
            responses["202"]["links"] = {
                name: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
                for name, operation in LINKED.items()
            }
        schemas = document["components"]["schemas"]
        for name in UNUSED:
            schemas.pop(name, None)
        schemas["Problem"] = PROBLEM
        schemas["JobError"]["properties"]["code"] |= {"enum": list(REASONS), "description": _meanings()}
        app.openapi_schema = document
    return app.openapi_schema


def _meanings() -> str:
    return "\n".join(f"- `{code}`: {reason.meaning}" for code, reason in REASONS.items())
