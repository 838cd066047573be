"""The audit trail: written beside every action, read by administrators, changed by nobody."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session
from ulid import ULID

from jobs.clock import now
from jobs.tables import AuditEvent


class AuditRepository:
    """Audit events of all tenants."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def note(self, tenant: str, action: str, *, key_id: str | None, subject: str | None, address: str | None) -> None:
        """Write that this was done; `subject` is the job, key or tenant that it was done to."""
        number = f"audit_{str(ULID()).lower()}"
        self._session.add(
            AuditEvent(
                id=number,
                created_at=now(),
                tenant=tenant,
                key_id=key_id,
                action=action,
                subject=subject,
                address=address,
            )
        )
        self._session.flush()

    def page(self, *, limit: int, before: str | None, tenant: str | None, subject: str | None) -> Sequence[AuditEvent]:
        """Up to `limit` events, newest first, from those older than the event `before`."""
        chosen = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
        if before is not None:
            chosen = chosen.where(AuditEvent.id < before)
        if tenant is not None:
            chosen = chosen.where(AuditEvent.tenant == tenant)
        if subject is not None:
            chosen = chosen.where(AuditEvent.subject == subject)
        return self._session.scalars(chosen).all()
