"""Refuses request bodies that are too large, said so or not."""

import re
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, respond

# A file that is sent here is held to its declared size by `api/receiving.py`.
FILES = re.compile(r"/v1/uploads/[^/]+/files/[^/]+")


class BodyLimit:
    """ASGI middleware: 413 at once for a large Content-Length, and for a body that turns out to be large."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        detail = f"a request body may have at most {self._limit_bytes} bytes"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit():
            await respond(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")(scope, receive, send)
            return
        if scope["method"] == "PUT" and FILES.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        if int(announced) > self._limit_bytes:
            # The connection ends here: nobody reads what is still on its way.
            response = respond(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, {"Connection": "close"})
            await response(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit_bytes:
                raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"})
            return message

        await self._app(scope, counted, send)
