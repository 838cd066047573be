"""Refuses request bodies that are too large, compressed, or declared with two different lengths."""

import re
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.protocol.problems import Problem, respond

# A file that is sent here is held to its declared size by `api/uploads/receive.py`.
FILES = re.compile(r"/v1/uploads/[^/]+/files/[^/]+")
# The connection ends with the refusal: nobody reads what is still on its way.
CLOSE = {"Connection": "close"}


class BodyLimit:
    """ASGI middleware: 413 at once for a large Content-Length, and for a body that turns out to be large; 415 for one
    that is compressed, since what it unpacks to has no such limit.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if _is_file(scope):
            await self._app(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit_bytes:
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail, headers=CLOSE)
            return message

        await self._app(scope, counted, send)

    @property
    def _detail(self) -> str:
        return f"a request body may have at most {self._limit_bytes} bytes"

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "0")
        if not (announced.isascii() and announced.isdigit()):
            return respond(HTTPStatus.BAD_REQUEST, "Content-Length is not a number", CLOSE)
        if "transfer-encoding" in headers and "content-length" in headers:
            # What reads the one and what reads the other would part the connection into different requests.
            detail = "a request has either Content-Length or Transfer-Encoding"
            return respond(HTTPStatus.BAD_REQUEST, detail, CLOSE)
        if headers.get("content-encoding", "identity").lower() != "identity":
            said = {**CLOSE, "Accept-Encoding": "identity"}
            return respond(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a request body must not be compressed", said)
        if int(announced) > self._limit_bytes and not _is_file(scope):
            return respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._detail, CLOSE)
        return None


def _is_file(scope: Scope) -> bool:
    return scope["method"] == "PUT" and FILES.fullmatch(scope["path"]) is not None
