"""Tenants with their quotas, API keys, audit events.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from jobs.clock import now

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("queued_jobs", sa.Integer),
        sa.Column("running_jobs", sa.Integer),
        sa.Column("stored_bytes", sa.BigInteger),
        sa.CheckConstraint("queued_jobs >= 0 AND running_jobs >= 0 AND stored_bytes >= 0", name="quotas"),
    )
    # The tenant of a service without keys, and of all jobs from before there were any.
    op.execute(tenants.insert().values(name="default", created_at=now()))
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])
    op.create_table(
        "audit_events",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(40)),
        sa.Column("action", sa.String(128), nullable=False),
        sa.Column("subject", sa.String(128)),
        sa.Column("address", sa.String(64)),
    )
    op.create_index("ix_audit_events_tenant", "audit_events", ["tenant", "id"])
    op.create_index("ix_audit_events_subject", "audit_events", ["subject"])
    op.create_index("ix_jobs_tenant_state", "jobs", ["tenant", "state"])


def downgrade() -> None:
    op.drop_index("ix_jobs_tenant_state", "jobs")
    for table in ("audit_events", "api_keys", "tenants"):
        op.drop_table(table)
