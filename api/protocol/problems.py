"""Every error of the API as `application/problem+json` (RFC 9457), whoever raised it."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from jobs.artifacts import StorageUnavailable
from jobs.ceilings import BeyondCeilings, UnknownGPUClass
from jobs.database import DATABASE_DOWN
from jobs.locations.uris import ForbiddenURI
from jobs.repository import QuotaExceeded, TenantDeleting, UnusableUpload
from jobs.security.signing_secrets import NoSecretKey
from jobs.tables import JsonObject

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "5"
QUOTA_RETRY_AFTER_SECONDS = "60"
VALUE_ERROR = "Value error, "

log = structlog.get_logger(__name__)


class Problem(HTTPException):
    """An error answer. `members` are further members of the problem, such as `code` or `errors`."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, headers: dict[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(status, detail, headers)
        self.members = members


def install(app: FastAPI) -> None:
    """Answer with a problem wherever this application would answer with an error."""
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ForbiddenURI, _forbidden_uri)
    app.add_exception_handler(BeyondCeilings, _beyond_ceilings)
    app.add_exception_handler(UnknownGPUClass, _unknown_gpu_class)
    app.add_exception_handler(UnusableUpload, _unusable_upload)
    for kind in DATABASE_DOWN:
        app.add_exception_handler(kind, _unavailable)
    app.add_exception_handler(StorageUnavailable, _unavailable)
    app.add_exception_handler(NoSecretKey, _no_secret_key)
    app.add_exception_handler(QuotaExceeded, _quota_exceeded)
    app.add_exception_handler(TenantDeleting, _conflict)
    app.add_exception_handler(Exception, _unexpected)


def problem(status: int, detail: str, **members: Any) -> JsonObject:
    """The document; `title` is the status in words."""
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}


def respond(status: int, detail: str, headers: dict[str, str] | None = None, **members: Any) -> JSONResponse:
    """A problem as a response."""
    return JSONResponse(problem(status, detail, **members), status, headers, MEDIA_TYPE)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    details = {
        HTTPStatus.NOT_FOUND: f"there is nothing at {request.url.path}",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible here",
    }
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(_allowed(request))) or headers["Allow"]
    # The framework's own errors only repeat the status in words.
    plain = error.detail == HTTPStatus(error.status_code).phrase
    detail = details.get(HTTPStatus(error.status_code), error.detail) if plain else error.detail
    return respond(error.status_code, detail, headers, **getattr(error, "members", {}))


def _allowed(request: Request) -> set[str]:
    """The methods of every operation at this path; the framework names those of the first alone."""
    return {
        method.upper()
        for template, operations in request.app.openapi()["paths"].items()
        if compile_path(template)[0].match(request.url.path)
        for method in operations
    }


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [_described(fault, error.body) for fault in error.errors()]
    # A value that fits none of a union's forms is reported once a form.
    distinct = list({(e.get("pointer", e.get("parameter")), e["detail"]): e for e in errors}.values())
    return respond(HTTPStatus.UNPROCESSABLE_ENTITY, "the request does not have the documented form", errors=distinct)


def _described(fault: Any, body: Any) -> dict[str, str]:
    place, *location = fault["loc"]
    detail = fault["msg"].removeprefix(VALUE_ERROR)
    if fault["type"] == "json_invalid":
        return {"pointer": "", "detail": f"not valid JSON at byte {location[0]}: {fault['ctx']['error']}"}
    if place != "body":
        return {"parameter": str(location[0]), "detail": detail}
    if fault["type"].startswith("union_tag_"):
        # The fault lies in the member that says which form of the union is meant.
        location.append(fault["ctx"]["discriminator"].strip("'"))
    missing = fault["type"] in {"missing", "union_tag_not_found"}
    return {"pointer": _pointer(location, body, missing=missing), "detail": detail}


def _pointer(location: list[Any], body: Any, *, missing: bool) -> str:
    """The JSON pointer (RFC 6901) to the place; what pydantic adds to name a union's form is not part of it."""
    pointer = ""
    for number, step in enumerate(location, 1):
        inside = (isinstance(body, dict) and step in body) or (isinstance(body, list) and isinstance(step, int))
        is_missing_member = missing and number == len(location) and isinstance(body, dict)
        if not inside and not is_missing_member:
            continue
        pointer += "/" + str(step).replace("~", "~0").replace("/", "~1")
        body = body[step] if inside else None
    return pointer


async def _forbidden_uri(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ForbiddenURI)
    errors = [{"pointer": error.pointer, "detail": str(error)}]
    return respond(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code="source_forbidden", errors=errors)


async def _beyond_ceilings(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BeyondCeilings)
    errors = [
        {
            "pointer": each.pointer,
            "detail": str(each),
            "setting": each.setting,
            "limit": each.limit,
            "asked": each.asked,
        }
        for each in error.excesses
    ]
    return respond(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code="limit_exceeded", errors=errors)


async def _unknown_gpu_class(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnknownGPUClass)
    errors = [{"pointer": "/gpu_class", "detail": str(error)}]
    return respond(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        str(error),
        code="unknown_gpu_class",
        errors=errors,
        gpu_classes=error.known,
    )


async def _unusable_upload(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UnusableUpload)
    errors = [{"pointer": error.pointer, "detail": str(error)}]
    return respond(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code=error.code, errors=errors)


async def _quota_exceeded(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QuotaExceeded)
    members = {"code": "quota_exceeded", "quota": error.quota, "limit": error.limit, "use": error.use}
    return respond(HTTPStatus.TOO_MANY_REQUESTS, str(error), {"Retry-After": QUOTA_RETRY_AFTER_SECONDS}, **members)


async def _conflict(_request: Request, error: Exception) -> JSONResponse:
    return respond(HTTPStatus.CONFLICT, str(error))


async def _no_secret_key(_request: Request, error: Exception) -> JSONResponse:
    return respond(HTTPStatus.SERVICE_UNAVAILABLE, str(error))


async def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    return unavailable(error)


def unavailable(error: Exception) -> JSONResponse:
    """503 for a database or an artifact store that does not answer."""
    log.warning("unavailable", error=str(error))
    what = "artifact store" if isinstance(error, StorageUnavailable) else "database"
    code = {"code": "storage_unavailable"} if isinstance(error, StorageUnavailable) else {}
    detail = f"the {what} does not answer; try again"
    return respond(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": RETRY_AFTER_SECONDS}, **code)


async def _unexpected(request: Request, _error: Exception) -> JSONResponse:
    # The server logs the traceback; the client learns nothing about the inside of the service.
    request_id = request.state.request_id
    detail = f"an unexpected error; the service's log says more of {request_id}"
    # This answer is made outside of the middleware that would set the header.
    return respond(HTTPStatus.INTERNAL_SERVER_ERROR, detail, {"X-Request-Id": request_id})
