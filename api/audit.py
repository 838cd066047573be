"""What a request does, and the row of the audit trail that tells it: written in one transaction, or neither is."""

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
    """An action is named by its route. Whatever ends its transaction early, a refusal too, leaves no row behind."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.subject: str | None = next(iter(request.path_params.values()), None)
        """The job, key, tenant or endpoint that it is done to; a route that makes one says which."""

        self.traceparent: str | None = request.state.traceparent
        """Where in a trace the request is; None without traces."""

    def note(self) -> None:
        """Note what was done outside of the database."""
        with self.transaction():
            pass

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction, noted at its end."""
        request = self._request
        caller = request.state.caller
        with transaction(request.app.state.sessions) as session:
            yield session
            AuditRepository(session).note(
                caller.tenant,
                f"{request.method} {request.scope['route'].path}",
                key_id=caller.key_id,
                subject=self.subject,
                # A proxy may hand on whatever its client made up.
                address=request.client.host[:MOST_ADDRESS] if request.client else None,
                request_id=request.state.request_id,
            )
        request.state.subject = self.subject


async def action_of(request: Request) -> ActionOfRequest:
    """The dependency of every route that changes something or hands out a file."""
    return ActionOfRequest(request)


Action = Annotated[ActionOfRequest, Depends(action_of)]
