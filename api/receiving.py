"""A file on its way in: counted and hashed while it streams, so that nothing that was not declared is ever stored."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from http import HTTPStatus

from fastapi import Request
from starlette.requests import ClientDisconnect

from api.problems import Problem
from jobs.repository import DeclaredFile

# Whoever sends nothing for so long has gone, or means to hold the connection.
SILENCE_SECONDS = 60
# The connection ends with the refusal: nobody reads what is still on its way.
CLOSE = {"Connection": "close"}


async def received(request: Request, file: DeclaredFile) -> AsyncIterator[bytes]:
    """The chunks of the body. Raises a `Problem` for more, fewer or other bytes than were declared: whoever stores
    these chunks must store nothing then.
    """
    announced = request.headers.get("content-length")
    if announced is not None and int(announced) > file.size_bytes:
        raise _too_large(file)
    digest, size_bytes = hashlib.sha256(), 0
    chunks = request.stream()
    while chunk := await _next(chunks):
        size_bytes += len(chunk)
        if size_bytes > file.size_bytes:
            raise _too_large(file)
        digest.update(chunk)
        yield chunk
    if size_bytes < file.size_bytes:
        detail = f"{file.name} was declared with {file.size_bytes} bytes, and only {size_bytes} came"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="upload_incomplete")
    if digest.hexdigest() != file.sha256:
        detail = f"{file.name} does not have the declared sha256"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, code="upload_incomplete")


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next chunk that is not empty; nothing at the end."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            async for chunk in chunks:
                if chunk:
                    return chunk
            return b""
    except TimeoutError:
        detail = f"nothing came for {SILENCE_SECONDS} seconds"
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, detail, headers=CLOSE) from None
    except ClientDisconnect:
        raise Problem(HTTPStatus.BAD_REQUEST, "the connection ended before the file did") from None


def _too_large(file: DeclaredFile) -> Problem:
    detail = f"{file.name} was declared with {file.size_bytes} bytes, and more came"
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers=CLOSE)
