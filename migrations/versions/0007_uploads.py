"""Uploads, their files, and which jobs read them.

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("completed_at", TIME),
        sa.Column("expires_at", TIME),
        sa.CheckConstraint("kind IN ('dataset', 'model')", name="kind"),
    )
    op.create_index("ix_uploads_tenant", "uploads", ["tenant", "id"])
    op.create_index("ix_uploads_expires_at", "uploads", ["expires_at"])
    op.create_table(
        "upload_files",
        sa.Column("upload_id", sa.String(40), sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.CheckConstraint("size_bytes >= 0", name="size_bytes"),
    )
    op.create_table(
        "job_uploads",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("upload_id", sa.String(40), sa.ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("ix_job_uploads_upload_id", "job_uploads", ["upload_id"])


def downgrade() -> None:
    for table in ("job_uploads", "upload_files", "uploads"):
        op.drop_table(table)
