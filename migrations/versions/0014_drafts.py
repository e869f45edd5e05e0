"""What people have filled into the forms of a case and not sent yet."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"

#: A draft is somebody's words about a picture: they go with all others.
DROP_DRAFTS = """
CREATE FUNCTION drop_drafts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM drafts WHERE case_id = NEW.id;
    RETURN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "drafts",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("form", sa.Text(), nullable=False, comment="See moderation.database.drafts.Form"),
        sa.Column("fields", postgresql.JSONB(), nullable=False, comment="As they were filled in, by name"),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"]),
        sa.PrimaryKeyConstraint("case_id", "person_id", "form"),
        comment="What people have filled into the forms of a case and not sent yet. Forgotten after a day.",
    )
    op.create_index("drafts_at", "drafts", ["at"])
    op.execute(DROP_DRAFTS)
    op.execute(
        "CREATE TRIGGER drafts_go_with_words AFTER UPDATE OF erased_at ON cases FOR EACH ROW "
        "WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION drop_drafts()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER drafts_go_with_words ON cases")
    op.execute("DROP FUNCTION drop_drafts")
    op.drop_table("drafts")
