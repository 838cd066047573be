"""The request id of an audit event, tallies, and where a job's trace began.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit_events", sa.Column("request_id", sa.String(64)))
    op.add_column("jobs", sa.Column("traceparent", sa.String(55)))
    op.create_table(
        "tallies",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("label", sa.String(64), primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("tallies")
    op.drop_column("jobs", "traceparent")
    op.drop_column("audit_events", "request_id")
