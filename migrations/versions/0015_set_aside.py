"""Cases that nobody can judge by looking at a face stand aside from those that somebody can.

`cases.set_aside` says why: the image was refused, or no face was found in it. A trigger keeps it, so that workers of the
release before keep it too. What somebody escalated or appealed is not aside: a person waits for it.
"""

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0015"
down_revision = "0014"

SET_ASIDE = """
CREATE OR REPLACE FUNCTION set_aside() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.set_aside := CASE
        WHEN NEW.stage <> 'first' THEN NULL
        WHEN NEW.refusal_code IS NOT NULL THEN 'refused'
        WHEN NEW.label = 'undetermined' AND EXISTS (
            SELECT FROM analyses WHERE id = NEW.analysis_id AND abstain = 'no_face') THEN 'no_face'
    END;
    RETURN NEW;
END $$
"""
#: Writing what is there already makes the trigger look.
FILL_IN = """
UPDATE cases SET refusal_code = refusal_code WHERE id IN (
    SELECT id FROM cases WHERE state = 'ready' AND id > :after
        AND (refusal_code IS NOT NULL OR label = 'undetermined') ORDER BY id LIMIT 2000)
RETURNING id
"""
INDEXES = {
    "cases_to_review": "state = 'ready' AND set_aside IS NULL",
    "cases_set_aside": "state = 'ready' AND set_aside IS NOT NULL",
}


def upgrade() -> None:
    op.add_column(
        "cases",
        sa.Column(
            "set_aside",
            sa.Text(),
            nullable=True,
            comment="Why nobody can judge it by a face: refused or no_face. Null: somebody can",
        ),
        if_not_exists=True,
    )
    op.execute(SET_ASIDE)
    op.execute("DROP TRIGGER IF EXISTS set_aside ON cases")
    op.execute(
        "CREATE TRIGGER set_aside BEFORE UPDATE OF stage, refusal_code, label, analysis_id ON cases FOR EACH ROW "
        "EXECUTE FUNCTION set_aside()"
    )
    with unhurried():
        for name, where in INDEXES.items():
            op.drop_index(name, "cases", if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                "cases",
                ["queued_at", "id"],
                postgresql_where=sa.text(where),
                postgresql_concurrently=True,
            )
        after = "00000000-0000-0000-0000-000000000000"
        while True:
            filled = op.get_bind().execute(sa.text(FILL_IN), {"after": after}).scalars().all()
            if not filled:
                break
            after = str(max(filled))


def downgrade() -> None:
    with unhurried():
        for name in INDEXES:
            op.drop_index(name, "cases", if_exists=True, postgresql_concurrently=True)
    op.execute("DROP TRIGGER set_aside ON cases")
    op.execute("DROP FUNCTION set_aside")
    op.drop_column("cases", "set_aside")
