"""What people and exports must know of a bundle that no worker holds any more: its calibration, and its prompt set.

Null until a worker of this release was started with it.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    op.add_column(
        "bundles",
        sa.Column(
            "basis", sa.Text(), comment="What its scores were calibrated on, in words. Null: on nothing"
        ),
    )
    op.add_column(
        "bundles",
        sa.Column(
            "basis_sources",
            postgresql.ARRAY(sa.Text()),
            comment="Sources of cases on which its calibration holds: there a score is a probability",
        ),
    )
    op.add_column("bundles", sa.Column("prompts", sa.SmallInteger(), comment="Version of its prompt set"))


def downgrade() -> None:
    for column in ("prompts", "basis_sources", "basis"):
        op.drop_column("bundles", column)
