"""Tenants that are being deleted, and whose the objects of a deleted job are.

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("deleting_at", sa.DateTime(timezone=True)))
    op.add_column("leftovers", sa.Column("tenant", sa.String(64)))


def downgrade() -> None:
    op.drop_column("leftovers", "tenant")
    op.drop_column("tenants", "deleting_at")
