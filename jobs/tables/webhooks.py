"""Webhook endpoints of tenants, and the deliveries to them."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base

WAITING = text("next_at IS NOT NULL")


class WebhookEndpoint(Base):
    """An address that receives `event_types`. After a rotation the previous secret signs too, until `previous_until`.

    Both are sealed (`jobs/security/signing_secrets.py`), or as plain as they were before secrets were sealed.
    """

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_tenant", "tenant"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_until: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    created_at: Mapped[datetime]


class WebhookDelivery(Base):
    """One event for one endpoint, sent until it is taken. `next_at` is empty once it was, or was given up."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_next_at", "next_at", postgresql_where=WAITING, sqlite_where=WAITING),
        Index("ix_webhook_deliveries_endpoint_id", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_job_id", "job_id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    job_id: Mapped[str] = mapped_column(String(40))
    event_type: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime]
    attempts: Mapped[int]
    next_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
