"""What is remembered beside jobs: keys that make submitting safe to repeat, and deleted jobs with objects left."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


class IdempotencyKey(Base):
    """A key under which a tenant has made a job, and what was asked for. It outlives the job."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]


class DeletedJob(Base):
    """A deleted job whose objects are still to be removed from the artifact store. The release before
    writes no tenant.
    """

    __tablename__ = "leftovers"

    job_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
