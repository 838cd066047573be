"""The audit log: written in the transaction of every action, read by administrators, never changed."""

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from jobs.clock import later, now
from jobs.ids import new_id
from jobs.tables import AuditEvent

# Of the table and not of the class: nobody reads the row back, and every submission writes one.
INSERT_EVENT = insert(AuditEvent.__table__).values(created_at=now())  # type: ignore[arg-type]


class AuditRepository:
    """Audit events of all tenants."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(
        self,
        tenant: str,
        action: str,
        *,
        key_id: str | None,
        subject: str | None,
        address: str | None,
        request_id: str | None,
    ) -> None:
        """Write one row; `subject` is the id of the job, key or tenant that was changed."""
        self._session.execute(
            INSERT_EVENT,
            {
                "id": new_id("audit"),
                "tenant": tenant,
                "action": action,
                "key_id": key_id,
                "subject": subject,
                "address": address,
                "request_id": request_id,
            },
        )

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

    def forget_old(self, retention_days: float, limit: int) -> int:
        """Delete the oldest events, up to `limit`, where they are older than this; returns how many went.

        Ids sort by time, so the oldest are found without an index that every action would have to keep.
        """
        oldest = select(AuditEvent.id).order_by(AuditEvent.id).limit(limit)
        old = (AuditEvent.id.in_(oldest), AuditEvent.created_at <= later(-retention_days * 86400))
        return len(self._session.scalars(delete(AuditEvent).where(*old).returning(AuditEvent.id)).all())
