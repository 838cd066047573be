"""A service without keys on loopback is every local program's, but not every web page's.

A page in a browser on the same machine can reach it in two ways: by a host name that it makes resolve to 127.0.0.1
(DNS rebinding), and by a request across origins that needs no answer to do harm. The first has the page's name as
`Host`, the second has the page's `Origin`.
"""

from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.protocol.problems import respond

# What asks these calls the service by an address, or by its name inside a network.
PROBES = frozenset({"/livez", "/readyz", "/metrics"})


class AllowedHosts:
    """ASGI middleware: 400 for a `Host` that is not allowed, and 403 for an `Origin` that is not the host.

    A service with keys answers probes under any name.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...], *, same_origin: bool) -> None:
        self._app = app
        self._same_origin = same_origin
        self._trusted_hosts = TrustedHostMiddleware(_pass, allowed_hosts, www_redirect=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            is_probe = not self._same_origin and scope["path"] in PROBES
            if not (is_probe or await self._is_allowed(scope, receive)):
                answer = respond(HTTPStatus.BAD_REQUEST, "the API is not called by this host; see SGLP_ALLOWED_HOSTS")
            elif self._same_origin and origin is not None and _host_of(origin) != headers["host"]:
                answer = respond(HTTPStatus.FORBIDDEN, "without API keys, no page of another origin may call this")
        await answer(scope, receive, send)

    async def _is_allowed(self, scope: Scope, receive: Receive) -> bool:
        """Whether Starlette's middleware allows the host; its own answer is not a problem document."""
        answered: list[Message] = []

        async def record(message: Message) -> None:
            answered.append(message)

        await self._trusted_hosts(scope, receive, record)
        return not answered


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


async def _pass(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """The application behind Starlette's middleware: a request that arrives here is allowed."""
