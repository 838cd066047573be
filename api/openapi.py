"""The OpenAPI document: names of operations, every error as a problem, and where a job's links lead."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.alias_generators import to_camel

from api.protocol.problems import MEDIA_TYPE
from jobs.errors import REASONS

OpenAPIObject = dict[str, Any]
"""A part of an OpenAPI document: JSON whose members depend on the part; FastAPI types it like this too."""

PROBLEM = {
    "title": "Problem",
    "type": "object",
    "description": "An error (RFC 9457). `errors` says what is wrong with which part of the request.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "examples": ["about:blank"]},
        "title": {"type": "string", "examples": ["Unprocessable Content"]},
        "status": {"type": "integer", "examples": [422]},
        "detail": {"type": "string", "examples": ["the request does not have the documented form"]},
        "code": {
            "type": "string",
            "description": "distinguishes errors of the same status for programs, such as `unknown_gpu_class`",
        },
        "gpu_classes": {
            "type": "array",
            "items": {"type": "string"},
            "description": "of `unknown_gpu_class`: those that a job may name",
        },
        "quota": {"type": "string", "description": "of `quota_exceeded`: which"},
        "limit": {"type": "integer", "description": "of `quota_exceeded`: the most that the tenant may have"},
        "use": {"type": "integer", "description": "of `quota_exceeded`: what it has"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body"},
                    "parameter": {"type": "string"},
                    "detail": {"type": "string"},
                    "setting": {"type": "string", "description": "of `limit_exceeded`: which of the operator's"},
                    "limit": {"type": "number", "description": "its value"},
                    "asked": {"type": "number", "description": "what the job asks for"},
                },
            },
        },
    },
}
# `api/middleware/authentication.py` checks keys, before any route; an operation that needs none says so.
KEYS = {"apiKey": {"type": "http", "description": "`sglp_<keyid>_<secret>`", "scheme": "bearer"}}
LINKED = {
    "get": "getJob",
    "events": "listEvents",
    "cancel": "cancelJob",
    "retry": "retryJob",
    "artifacts": "listArtifacts",
}
SERVERS = [{"url": "/", "description": "The service that this document comes from"}]
LICENSE = {"name": "Apache License 2.0", "identifier": "Apache-2.0"}
TAGS = [
    {"name": "jobs", "description": "Submit, watch, cancel, retry and delete jobs."},
    {"name": "analyses", "description": "The results of a job: similarity of layers, table of layers, report."},
    {"name": "artifacts", "description": "The files that a job has published, such as the smaller model."},
    {"name": "uploads", "description": "Send a model or a data set for jobs to read."},
    {"name": "webhooks", "description": "Signed HTTP requests of the service when a job has ended."},
    {"name": "admin", "description": "Tenants, quotas, API keys and the audit log; needs the scope `admin`."},
    {"name": "service", "description": "Supported architectures, health and metrics."},
]
SUBMISSIONS = ("/v1/jobs", "/v1/jobs/{job_id}/retry")
# The framework collects these too; `JobEvent` describes what is shown of an `EventView`.
UNUSED = ("HTTPValidationError", "ValidationError", "EventView")


def operation_id(route: APIRoute) -> str:
    """`createJob` for a route of the function `create_job`: a good name for a method of a generated client."""
    return to_camel(route.name)


def describe(app: FastAPI) -> OpenAPIObject:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            webhooks=app.webhooks.routes,
            tags=app.openapi_tags,
            servers=app.servers,
            license_info=app.license_info,
        )
        error = {
            "description": "An error",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for operations in document["paths"].values():
            for operation in operations.values():
                responses = operation["responses"]
                responses.pop("422", None)
                responses["4XX"] = responses["5XX"] = error
                operation.setdefault("security", [{name: [] for name in KEYS}])
        for operation in (each["post"] for each in document["webhooks"].values()):
            operation["responses"].pop("422")
        for path in SUBMISSIONS:
            responses = document["paths"][path]["post"]["responses"]
            responses["202"]["links"] = {
                name: {"operationId": operation, "parameters": {"job_id": "$response.body#/id"}}
                for name, operation in LINKED.items()
            }
        document["components"]["securitySchemes"] = KEYS
        schemas = document["components"]["schemas"]
        for name in UNUSED:
            schemas.pop(name, None)
        schemas["Problem"] = PROBLEM
        schemas["JobError"]["properties"]["code"] |= {"enum": list(REASONS), "description": _meanings()}
        app.openapi_schema = document
    return app.openapi_schema


def _meanings() -> str:
    return "\n".join(f"- `{code}`: {reason.meaning}" for code, reason in REASONS.items())
