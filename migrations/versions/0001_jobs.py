"""Jobs, their events, artifacts and analyses.

Revision: 0001, the first
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TERMINAL = "('cancelled', 'failed', 'succeeded')"


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("gpu_class", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("finished_at", TIME),
        sa.Column("deadline_at", TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("last_event_seq", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease_until", TIME),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("hinted_at", TIME),
        sa.Column("phase", sa.String(32)),
        sa.Column("progress", JSON),
        sa.Column("resolved", JSON),
        sa.Column("plan", JSON),
        sa.Column("result", JSON),
        sa.Column("error", JSON),
        sa.Column("swept_at", TIME),
        sa.CheckConstraint(
            "state IN ('cancelled', 'cancelling', 'failed', 'queued', 'running', 'succeeded')", name="state"
        ),
        sa.CheckConstraint("(state IN ('running', 'cancelling')) = (lease_until IS NOT NULL)", name="lease"),
        sa.CheckConstraint(f"(state IN {TERMINAL}) = (finished_at IS NOT NULL)", name="finished"),
        sa.CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name="error"),
    )
    op.create_index("ix_jobs_tenant_id", "jobs", ["tenant", "id"])
    op.create_index("ix_jobs_state_hinted_at", "jobs", ["state", "hinted_at"])
    op.create_index("ix_jobs_lease_until", "jobs", ["lease_until"])
    unswept = sa.text("swept_at IS NULL AND finished_at IS NOT NULL")
    op.create_index("ix_jobs_unswept", "jobs", ["finished_at"], postgresql_where=unswept, sqlite_where=unswept)
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    ends = sa.text(f"type IN {TERMINAL}")
    op.create_index(
        "ix_job_events_terminal", "job_events", ["job_id"], unique=True, postgresql_where=ends, sqlite_where=ends
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("media_type", sa.String(128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "analyses",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("layers", JSON, nullable=False),
        sa.Column("matrix", sa.LargeBinary, nullable=False),
        sa.Column("layer_names", JSON, nullable=False),
        sa.Column("segments", JSON, nullable=False),
        sa.Column("loss_curve", JSON, nullable=False),
        sa.Column("estimator", sa.String(16), nullable=False),
        sa.Column("kernel", sa.String(16), nullable=False),
        sa.Column("n_samples", sa.BigInteger, nullable=False),
        sa.Column("sample_unit", sa.String(32), nullable=False),
    )


def downgrade() -> None:
    for table in ("analyses", "artifacts", "job_events", "jobs"):
        op.drop_table(table)
