"""An operator who needs a dead letter no more dismisses it: it leaves the list and the alert, and the row stays."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column(
        "dead_letters",
        sa.Column(
            "dismissed_at",
            sa.DateTime(timezone=True),
            comment="When an operator needed it no more; null: it is listed",
        ),
    )


def downgrade() -> None:
    op.drop_column("dead_letters", "dismissed_at")
