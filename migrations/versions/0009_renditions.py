"""Pictures of each case's picture: for lists, and for browsers that do not show the file itself.

A trigger takes them away where a case is erased or archived, whichever function does that.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

FORGET_RENDITIONS = """
CREATE FUNCTION forget_renditions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM renditions WHERE case_id = NEW.id;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "renditions",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column(
            "thumbnail", sa.LargeBinary(), nullable=False, comment="JPEG, 192 pixels at its longer side"
        ),
        sa.Column(
            "shown", sa.LargeBinary(), nullable=True, comment="JPEG; null: browsers show the file itself"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.PrimaryKeyConstraint("case_id"),
        comment="Small pictures for lists, and pictures that browsers show of kinds that they do not. Gone with"
        " what a case says about somebody.",
    )
    op.create_index("renditions_age", "renditions", ["created_at"])
    # They are compressed already.
    op.execute(
        "ALTER TABLE renditions ALTER thumbnail SET STORAGE EXTERNAL, ALTER shown SET STORAGE EXTERNAL"
    )
    op.execute(FORGET_RENDITIONS)
    op.execute(
        "CREATE TRIGGER forget_renditions AFTER UPDATE OF erased_at, archive_id ON cases FOR EACH ROW"
        " WHEN (NEW.erased_at IS NOT NULL OR NEW.archive_id IS NOT NULL) EXECUTE FUNCTION forget_renditions()"
    )
    op.execute("COMMENT ON COLUMN views.kind IS 'sent, thumbnail, revealed, shown, artifact'")


def downgrade() -> None:
    op.execute("DROP TRIGGER forget_renditions ON cases")
    op.execute("DROP FUNCTION forget_renditions")
    op.drop_table("renditions")
    op.execute("COMMENT ON COLUMN views.kind IS 'sent, revealed, shown, artifact'")
