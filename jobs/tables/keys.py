"""Tenants, their API keys, and what was done with them."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


class Tenant(Base):
    """A team whose jobs no other team sees. A quota that is null does not limit; of workers that are wanted by several
    tenants each gets a share by its `weight`. From `deleting_at` on it gets nothing any more, and what it has
    is removed.
    """

    __tablename__ = "tenants"
    __table_args__ = (
        CheckConstraint("queued_jobs >= 0 AND running_jobs >= 0 AND stored_bytes >= 0", name="quotas"),
        CheckConstraint("weight > 0", name="weight"),
    )

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    deleting_at: Mapped[datetime | None]
    queued_jobs: Mapped[int | None]
    running_jobs: Mapped[int | None]
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    weight: Mapped[float] = mapped_column(server_default="1")


class ApiKey(Base):
    """An API key; of its secret only the SHA-256 is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_tenant", "tenant"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.name"))
    name: Mapped[str] = mapped_column(String(128))
    secret_sha256: Mapped[bytes] = mapped_column(LargeBinary)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class AuditEvent(Base):
    """Who did what, when and from where. Names are kept as they were, so that a row outlives what it is about."""

    __tablename__ = "audit_events"
    __table_args__ = (Index("ix_audit_events_tenant", "tenant", "id"), Index("ix_audit_events_subject", "subject"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_at: Mapped[datetime]
    tenant: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(128))
    subject: Mapped[str | None] = mapped_column(String(128))
    address: Mapped[str | None] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(64))
