"""Fair shares between tenants: weights, priorities, and what each tenant's attempts have taken.

Revision: 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    with op.batch_alter_table("tenants") as tenants:
        tenants.add_column(sa.Column("weight", sa.Double, nullable=False, server_default="1"))
        tenants.create_check_constraint("weight", "weight > 0")
    # Not by copying: there may be many jobs.
    op.add_column("jobs", sa.Column("precedence", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("claimed_at", TIME))
    op.add_column("jobs", sa.Column("attempt_seconds", sa.Double))
    waiting = sa.text("state = 'queued'")
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["gpu_class", "tenant", "precedence", "id"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    held = sa.text("lease_until IS NOT NULL")
    op.create_index("ix_jobs_held", "jobs", ["gpu_class", "tenant"], postgresql_where=held, sqlite_where=held)
    op.create_table(
        "queues",
        sa.Column("gpu_class", sa.String(64), primary_key=True),
        sa.Column("virtual_time", sa.Double, nullable=False),
    )
    op.create_table(
        "shares",
        sa.Column("gpu_class", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("virtual_time", sa.Double, nullable=False),
        sa.Column("mean_seconds", sa.Double),
    )


def downgrade() -> None:
    op.drop_table("shares")
    op.drop_table("queues")
    op.drop_index("ix_jobs_held", "jobs")
    op.drop_index("ix_jobs_waiting", "jobs")
    for name in ("attempt_seconds", "claimed_at", "precedence"):
        op.drop_column("jobs", name)
    with op.batch_alter_table("tenants") as tenants:
        tenants.drop_constraint("weight", type_="check")
        tenants.drop_column("weight")
