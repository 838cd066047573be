"""A file on its way in: counted and hashed while it streams, so that nothing that was not declared is ever stored."""

import hashlib
from collections.abc import AsyncIterator
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from api.middleware.body_limit import CLOSE
from api.protocol.problems import Problem
from jobs.repository import DeclaredFile


async def received(request: Request, file: DeclaredFile) -> AsyncIterator[bytes]:
    """The chunks of the body. Raises a `Problem` for more, fewer or other bytes than were declared: whoever stores
    these chunks must store nothing then.
    """
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > file.size_bytes:
        raise _too_large(file)
    digest, size_bytes = hashlib.sha256(), 0
    try:
        async for chunk in request.stream():
            size_bytes += len(chunk)
            if size_bytes > file.size_bytes:
                raise _too_large(file)
            digest.update(chunk)
            yield chunk
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "the connection ended before the file did") from None
    if size_bytes < file.size_bytes:
        detail = f"{file.name} was declared with {file.size_bytes} bytes, and only {size_bytes} came"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="upload_incomplete")
    if digest.hexdigest() != file.sha256:
        detail = f"{file.name} does not have the declared sha256"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="upload_incomplete")


def _too_large(file: DeclaredFile) -> Problem:
    detail = f"{file.name} was declared with {file.size_bytes} bytes, and more came"
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers=CLOSE)
