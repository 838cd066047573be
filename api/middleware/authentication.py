"""Authentication: ASGI middleware that identifies the caller before any route runs, and refuses requests without a key.

It runs before the router, so every new route is protected; the paths in `PUBLIC` and `ALIVE` are the only exceptions.
The former count for the rate limit of an address all the same; the latter costs nothing.
"""

from http import HTTPStatus

from fastapi import Request
from sqlalchemy.orm import Session, sessionmaker
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from api.middleware.known_keys import KnownKeys
from api.middleware.rate_limit import Rates
from api.protocol.problems import respond, unavailable
from jobs.database import DATABASE_DOWN
from jobs.repository import Caller
from jobs.security.api_keys import Scope, read_key

ALIVE = "/livez"
PUBLIC = frozenset({"/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
ADMIN = "/v1/admin/"
# Whoever reaches a service without keys may do everything, as its one tenant.
ANYBODY = Caller("default", None, frozenset(Scope))
UNKNOWN = "this needs an API key that holds: send it as `Authorization: Bearer sglp_…`"


class Callers:
    """Sets `request.state.caller`; answers 401, 403 and 429."""

    def __init__(
        self, app: ASGIApp, sessions: sessionmaker[Session], *, require_keys: bool, requests_per_minute: int
    ) -> None:
        self._app = app
        self._keys = KnownKeys(sessions)
        self._require_keys = require_keys
        self._rates = Rates(requests_per_minute)

    async def __call__(self, connection: Connection, receive: Receive, send: Send) -> None:
        if connection["type"] != "http" or connection["path"] == ALIVE:
            await self._app(connection, receive, send)
            return
        request = Request(connection)
        is_public = connection["path"] in PUBLIC
        try:
            caller = None if is_public else await self._caller_of(request)
        except DATABASE_DOWN as error:
            await unavailable(error)(connection, receive, send)
            return
        address = request.client.host if request.client else ""
        rate = await self._rates.count(caller.key_id if caller and caller.key_id else address)

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(rate.headers)
            await send(message)

        answer = self._app
        needed = _needed(request)
        if not rate.within:
            answer = respond(HTTPStatus.TOO_MANY_REQUESTS, "too many requests", rate.retry_headers, code="rate_limited")
        elif caller is None and not is_public:
            answer = respond(HTTPStatus.UNAUTHORIZED, UNKNOWN, {"WWW-Authenticate": "Bearer"})
        elif caller and needed not in caller.scopes:
            answer = respond(HTTPStatus.FORBIDDEN, f"the key does not have the scope {needed}")
        elif caller:
            connection.setdefault("state", {})["caller"] = caller
        await answer(connection, receive, send_with_rate)

    async def _caller_of(self, request: Request) -> Caller | None:
        """The caller; None without a key or with one that is unknown, expired or revoked."""
        if not self._require_keys:
            return ANYBODY
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        presented = read_key(text.strip()) if scheme.lower() == "bearer" else None
        return None if presented is None else await self._keys.caller(presented)


def _needed(request: Request) -> Scope:
    """The scope that a request needs, by its method and path.

    The router uses the same path; `request.url` is built from header fields, which the client controls.
    """
    if request.scope["path"].startswith(ADMIN):
        return Scope.ADMIN
    return Scope.JOBS_READ if request.method in {"GET", "HEAD"} else Scope.JOBS_WRITE
