"""What `bonafide drift` found is kept for metrics; how the tower saw a face, which it looks at, is erased with its case."""

from importlib import import_module

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"

BEFORE: str = import_module("migrations.versions.0010_likeness").ERASE_CASE
ERASE_CASE = BEFORE.replace(
    '{"reply": null, "landmarks": null}', '{"reply": null, "landmarks": null, "view": null}'
)


def upgrade() -> None:
    op.create_table(
        "drift_looks",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="Of the pipeline whose analyses were looked at"
        ),
        sa.Column("before", sa.Integer(), nullable=False, comment="Cases that were held against"),
        sa.Column("late", sa.Integer(), nullable=False, comment="Cases of late"),
        sa.Column("p", sa.Float(), nullable=True, comment="Null: too few cases to say"),
        sa.Column("doubt", sa.Float(), nullable=False, comment="An alarm from this p down"),
        sa.Column("alarm", sa.Boolean(), nullable=False),
        sa.Column("shifted", postgresql.JSONB(), nullable=False, comment="By how much each number shifted"),
        sa.Column(
            "examples",
            postgresql.ARRAY(sa.Uuid()),
            nullable=False,
            comment="Late cases least like those before",
        ),
        sa.PrimaryKeyConstraint("id"),
        comment="Whether each source's pictures of late are like those before, as `bonafide drift` found it.",
    )
    op.create_index("drift_looks_source", "drift_looks", ["source", "at"])
    op.execute(_replacing(ERASE_CASE))


def downgrade() -> None:
    op.execute(_replacing(BEFORE))
    op.drop_table("drift_looks")


def _replacing(function: str) -> str:
    return function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
