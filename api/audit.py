"""The audit trail: ASGI middleware that writes down every change and every download before its answer goes out."""

from fastapi import Request
from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.database import transaction
from jobs.repository import AuditRepository

DOWNLOADS = frozenset({"/v1/jobs/{job_id}/artifacts/{name:path}", "/v1/jobs/{job_id}/artifacts.tar"})


class AuditTrail:
    """Notes what was done, not what was refused. An action is named by its route, and new routes are noted unasked.

    The note is written after the action's own transaction: a process that dies between the two leaves the action with
    the job's own events only. Where the database takes the action but not the note, the answer is an error.
    """

    def __init__(self, app: ASGIApp, sessions: sessionmaker[Session]) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400 and _counts(scope):
                await run_in_threadpool(self._note, Request(scope), Headers(raw=message["headers"]))
            await send(message)

        await self._app(scope, receive, send_noted if scope["type"] == "http" else send)

    def _note(self, request: Request, answer: Headers) -> None:
        made = answer.get("location", "").rpartition("/")[2] if request.method == "POST" else ""
        caller = request.state.caller
        with transaction(self._sessions) as session:
            AuditRepository(session).note(
                caller.tenant,
                _action(request.scope),
                key_id=caller.key_id,
                subject=made or next(iter(request.path_params.values()), None),
                address=request.client.host if request.client else None,
            )


def _counts(scope: Scope) -> bool:
    return scope["method"] not in {"GET", "HEAD", "OPTIONS"} or getattr(scope.get("route"), "path", None) in DOWNLOADS


def _action(scope: Scope) -> str:
    return f"{scope['method']} {scope['route'].path}"
