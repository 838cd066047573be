"""Files that tenants have sent for their jobs to read."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import Base


class Upload(Base):
    """Files under one id: open until `completed_at`, then read by jobs, and deleted after `expires_at`.

    The row is what keeps the objects below `uploads/{id}/`; the scheduler deletes those without one.
    """

    __tablename__ = "uploads"
    __table_args__ = (
        CheckConstraint("kind IN ('dataset', 'model')", name="kind"),
        Index("ix_uploads_tenant", "tenant", "id"),
        Index("ix_uploads_expires_at", "expires_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]


class UploadFile(Base):
    """A file of an upload, as it was declared; complete is only an upload whose objects are so."""

    __tablename__ = "upload_files"
    __table_args__ = (CheckConstraint("size_bytes >= 0", name="size_bytes"),)

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class JobUpload(Base):
    """A job that reads an upload; until the job has ended, the upload stays."""

    __tablename__ = "job_uploads"
    __table_args__ = (Index("ix_job_uploads_upload_id", "upload_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
