"""An index by which the ready cases of a campaign are found, however many there are of it."""

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    with unhurried():
        # Where this was cut off before, an index is left that is not valid.
        op.drop_index("cases_queue_campaign", "cases", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "cases_queue_campaign",
            "cases",
            ["campaign", "queued_at", "id"],
            postgresql_where=sa.text("state = 'ready' AND campaign IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with unhurried():
        op.drop_index("cases_queue_campaign", "cases", if_exists=True, postgresql_concurrently=True)
