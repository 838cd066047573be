"""What every request leaves behind: an id, which its answer, its log lines and the audit trail share, one line of
access log, and its part in the metrics.
"""

import re
import time

import structlog
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.service.metrics import RequestMetrics
from jobs.ids import new_id
from jobs.observability.tracing import begin_span

HEADER = "X-Request-Id"
# What a client or a proxy may call its request; anything else, such as a line break for the log, is not taken over.
FORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Asked every few seconds by machines; a line each would hide the others.
UNTOLD = frozenset({"/livez", "/readyz", "/metrics"})

log = structlog.get_logger(__name__)


class Requests:
    """ASGI middleware, the outermost: sets `request.state.request_id` and logs the end of the answer."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        client_id = Headers(scope=scope).get(HEADER, "")
        request_id = client_id if FORM.fullmatch(client_id) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        # The server has made a context for this request; bound to the end, so that what it logs has the id too.
        structlog.contextvars.clear_contextvars()
        span = begin_span("request", Headers(scope=scope).get("traceparent"), request_id=request_id)
        scope["state"]["traceparent"] = span.traceparent
        names = {"request_id": request_id, "trace_id": span.trace_id}
        structlog.contextvars.bind_contextvars(**{name: value for name, value in names.items() if value})
        status, sent_bytes = 500, 0

        async def send_with_id(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = int(message["status"])
                MutableHeaders(scope=message)[HEADER] = request_id
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.perf_counter() - begin
            route = route_of(scope)
            self._metrics.count(scope["method"], route, status, seconds, sent_bytes)
            facts = {"http.request.method": scope["method"], "http.route": route, "http.response.status_code": status}
            span.record(facts, name=f"{scope['method']} {route}" if route else None, failed=status >= 500)
            span.end()
            if scope["path"] not in UNTOLD:
                _log_request(Request(scope), status, seconds)


def _log_request(request: Request, status: int, seconds: float) -> None:
    """The route and not the path: what a path holds was made up by whoever asked."""
    caller, subject = (getattr(request.state, name, None) for name in ("caller", "subject"))
    log.info(
        "request",
        method=request.method,
        route=route_of(request.scope),
        status=status,
        duration_seconds=round(seconds, 6),
        tenant=caller and caller.tenant,
        key_id=caller and caller.key_id,
        **({"subject": subject} if subject else {}),
    )


def route_of(scope: Scope) -> str | None:
    """The template of the path; None where no route matches, or the request was refused before it reached one."""
    return getattr(scope.get("route"), "path", None)
