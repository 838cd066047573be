"""The action of a request and its row in the audit log, written in one transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from jobs.database import transaction
from jobs.repository import AuditRepository

# As long as the column is.
MOST_ADDRESS = 64


class ActionOfRequest:
    """An action is named by its route. A transaction that an error ends leaves no row."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.subject: str | None = next(iter(request.path_params.values()), None)
        """The id of the job, key, tenant or endpoint that it changes; a route that creates one sets it."""

        self.traceparent: str | None = request.state.traceparent
        """Where in a trace the request is; None without traces."""

    def record(self) -> None:
        """Record an action that changes nothing in the database."""
        with self.transaction():
            pass

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction, with a row of the audit log at its end."""
        request = self._request
        caller = request.state.caller
        with transaction(request.app.state.sessions) as session:
            yield session
            AuditRepository(session).record(
                caller.tenant,
                f"{request.method} {request.scope['route'].path}",
                key_id=caller.key_id,
                subject=self.subject,
                # A proxy may forward a value that its client made up.
                address=request.client.host[:MOST_ADDRESS] if request.client else None,
                request_id=request.state.request_id,
            )
        request.state.subject = self.subject


async def action_of(request: Request) -> ActionOfRequest:
    """The dependency of every route that changes something or hands out a file."""
    return ActionOfRequest(request)


Action = Annotated[ActionOfRequest, Depends(action_of)]
