"""What is measured of artifacts has a table of its own: it may be measured long after the analysis was written.

Archives carry it; erasing keeps it, as it keeps scores, and takes the map of a face away with its landmarks.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"

_FIRST = import_module("migrations.versions.0001_first_schema")
_EVIDENCE = import_module("migrations.versions.0008_evidence")
#: As `0020_withdrawn` left it: a case that was withdrawn is erased too.
_ERASE_CASE: str = import_module("migrations.versions.0019_drift").ERASE_CASE.replace(
    "state = 'decided'", "state IN ('decided', 'withdrawn')"
)

BEFORE: tuple[str, ...] = (
    _FIRST.REFUSE_CHANGE,
    _ERASE_CASE,
    _EVIDENCE.ARCHIVE_CASES,
    _EVIDENCE.RESTORE_CASE,
)
REFUSE_CHANGE = _FIRST.REFUSE_CHANGE.replace(
    "'artifacts', 'artifact_answers'", "'artifacts', 'effects', 'artifact_answers'"
)
ERASE_CASE = _ERASE_CASE.replace('"landmarks": null', '"landmarks": null, "foreign": null')
ARCHIVE_CASES = _EVIDENCE.ARCHIVE_CASES.replace(
    "    DELETE FROM artifacts WHERE",
    "    DELETE FROM effects WHERE analysis_id IN (SELECT id FROM analyses WHERE case_id = ANY (wanted));\n"
    "    DELETE FROM artifacts WHERE",
)
RESTORE_CASE = _EVIDENCE.RESTORE_CASE.replace("'artifacts',", "'artifacts', 'effects',")


def upgrade() -> None:
    op.create_table(
        "effects",
        sa.Column("analysis_id", sa.Uuid(), nullable=False),
        sa.Column("face", sa.SmallInteger(), nullable=False, comment="As in artifacts"),
        sa.Column("ordinal", sa.SmallInteger(), nullable=False, comment="As in artifacts"),
        sa.Column("score_without", sa.Double(), nullable=False, comment="With the region hidden"),
        sa.Column("margin_fall", sa.Double(), nullable=False, comment="How much lower the margin is then"),
        sa.Column(
            "control_score",
            sa.Double(),
            nullable=False,
            comment="With a control region of equal area hidden instead",
        ),
        sa.Column("control_fall", sa.Double(), nullable=False, comment="How much lower the margin is then"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"]),
        sa.PrimaryKeyConstraint("analysis_id", "face", "ordinal"),
        comment="By how much the score of a face falls without the region of an artifact. Written once.",
    )
    for function in (REFUSE_CHANGE, ERASE_CASE, ARCHIVE_CASES, RESTORE_CASE):
        op.execute(_replacing(function))
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON effects "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    for function in BEFORE:
        op.execute(_replacing(function))
    op.drop_table("effects")


def _replacing(function: str) -> str:
    return function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
