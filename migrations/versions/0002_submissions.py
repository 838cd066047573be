"""Idempotency keys, retries, deleted jobs, files that expire.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "leftovers",
        sa.Column("job_id", sa.String(40), primary_key=True),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.add_column("jobs", sa.Column("retry_of", sa.String(40)))
    op.add_column("artifacts", sa.Column("expires_at", TIME))
    op.add_column("artifacts", sa.Column("removed_at", TIME))
    kept = sa.text("removed_at IS NULL")
    op.create_index("ix_artifacts_expires_at", "artifacts", ["expires_at"], postgresql_where=kept, sqlite_where=kept)


def downgrade() -> None:
    op.drop_index("ix_artifacts_expires_at", "artifacts")
    op.drop_column("artifacts", "removed_at")
    op.drop_column("artifacts", "expires_at")
    op.drop_column("jobs", "retry_of")
    for table in ("leftovers", "idempotency_keys"):
        op.drop_table(table)
