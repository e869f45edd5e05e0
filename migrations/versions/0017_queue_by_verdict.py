"""Indexes by which the ready cases of a technique are found, and those without a verdict.

Of the verdicts there is one already. It does not serve for none: Postgres takes no order from an index after `IS NULL`.
"""

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0017"
down_revision = "0016"

#: Columns, and which cases.
INDEXES = {
    "cases_queue_technique": (
        ["technique", "queued_at", "id"],
        "state = 'ready' AND technique IS NOT NULL",
    ),
    "cases_queue_no_verdict": (["queued_at", "id"], "state = 'ready' AND label IS NULL"),
}


def upgrade() -> None:
    with unhurried():
        for name, (columns, where) in INDEXES.items():
            # Where this was cut off before, an index is left that is not valid.
            op.drop_index(name, "cases", if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name, "cases", columns, postgresql_where=sa.text(where), postgresql_concurrently=True
            )


def downgrade() -> None:
    with unhurried():
        for name in INDEXES:
            op.drop_index(name, "cases", if_exists=True, postgresql_concurrently=True)
