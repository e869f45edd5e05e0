"""An index by which what was delivered long ago is found, however much that was given up lies before it."""

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    with unhurried():
        # Where this was cut off before, an index is left that is not valid.
        op.drop_index("deliveries_delivered", "deliveries", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "deliveries_delivered",
            "deliveries",
            ["created_at"],
            postgresql_where=sa.text("delivered_at IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with unhurried():
        op.drop_index("deliveries_delivered", "deliveries", if_exists=True, postgresql_concurrently=True)
