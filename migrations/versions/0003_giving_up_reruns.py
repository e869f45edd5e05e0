"""An index by which reruns that are to be given up are found, however many wait."""

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with unhurried():
        # Where this was cut off before, an index is left that is not valid.
        op.drop_index("reruns_to_give_up", "reruns", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "reruns_to_give_up",
            "reruns",
            ["attempts", "created_at"],
            postgresql_where=sa.text("done_at IS NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with unhurried():
        op.drop_index("reruns_to_give_up", "reruns", if_exists=True, postgresql_concurrently=True)
