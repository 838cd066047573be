"""Room for sealed webhook secrets; `python -m jobs migrate` seals them, which needs the keys.

Revision: 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NARROW = sa.String(80)


def upgrade() -> None:
    with op.batch_alter_table("webhook_endpoints") as endpoints:
        endpoints.alter_column("secret", existing_type=NARROW, type_=sa.Text, existing_nullable=False)
        endpoints.alter_column("previous_secret", existing_type=NARROW, type_=sa.Text)


def downgrade() -> None:
    sealed = (
        "SELECT count(*) FROM webhook_endpoints WHERE secret NOT LIKE 'whsec%' OR previous_secret NOT LIKE 'whsec%'"
    )
    if op.get_bind().scalar(sa.text(sealed)):
        raise RuntimeError(
            "the version before would sign with sealed secrets as they are; delete their endpoints first"
        )
    with op.batch_alter_table("webhook_endpoints") as endpoints:
        endpoints.alter_column("secret", existing_type=sa.Text, type_=NARROW, existing_nullable=False)
        endpoints.alter_column("previous_secret", existing_type=sa.Text, type_=NARROW)
