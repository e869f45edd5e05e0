"""Facts about a case's picture that no model gave. They leave for archives with it and come back, and erasing takes all."""

from importlib import import_module

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"

_FIRST = import_module("migrations.versions.0001_first_schema")

ARCHIVE_CASES = _FIRST.ARCHIVE_CASES.replace(
    "    DELETE FROM artifacts WHERE",
    "    DELETE FROM evidence WHERE case_id = ANY (wanted);\n    DELETE FROM artifacts WHERE",
)
ERASE_CASE = import_module("migrations.versions.0004_erase_words").ERASE_CASE.replace(
    "    UPDATE artifacts SET", "    DELETE FROM evidence WHERE case_id = wanted;\n    UPDATE artifacts SET"
)
RESTORE_CASE = import_module("migrations.versions.0005_restore_anyway").RESTORE_CASE.replace(
    "'events', 'analyses',", "'events', 'analyses', 'evidence',"
)


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column(
            "gatherer",
            sa.Text(),
            nullable=False,
            comment="What the facts depend on beside the bytes: code and trust lists",
        ),
        sa.Column(
            "declared", sa.Text(), nullable=True, comment="What the strongest fact declares the picture to be"
        ),
        sa.Column("strength", sa.Text(), nullable=True, comment="Of that fact: cryptographic or declared"),
        sa.Column("facts", postgresql.JSONB(), nullable=False, comment="See moderation.evidence.words.Fact"),
        sa.Column("seconds", sa.Float(), nullable=False, comment="Of CPU, spent on gathering them"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("declared IN ('synthetic', 'captured')", name="evidence_declared_known"),
        sa.CheckConstraint("(declared IS NULL) = (strength IS NULL)", name="evidence_declared_whole"),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.PrimaryKeyConstraint("case_id"),
        comment="Facts about each case's picture that no model gave: see moderation.evidence.",
    )
    for function in (ERASE_CASE, ARCHIVE_CASES, RESTORE_CASE):
        op.execute(_replacing(function))


def downgrade() -> None:
    functions = (
        import_module("migrations.versions.0004_erase_words").ERASE_CASE,
        _FIRST.ARCHIVE_CASES,
        import_module("migrations.versions.0005_restore_anyway").RESTORE_CASE,
    )
    for function in functions:
        op.execute(_replacing(function))
    op.drop_table("evidence")


def _replacing(function: str) -> str:
    return function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
