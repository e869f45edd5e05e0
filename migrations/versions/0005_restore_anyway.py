"""A case comes back from an archive whatever was asked for while it was away.

A rerun that was asked for while its case left for an archive stood in the way of the recorded one for ever.
"""

from importlib import import_module

from alembic import op

revision = "0005"
down_revision = "0004"

RESTORE_CASE = """
CREATE OR REPLACE FUNCTION restore_case(record jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    part text;
    lines jsonb;
    named text;
BEGIN
    UPDATE cases SET archive_id = NULL, analysis_id = (record->'case'->>'analysis_id')::uuid
        WHERE id = (record->'case'->>'id')::uuid AND archive_id IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- What was asked for while it was away ends without an analysis: the case comes back as it was.
    DELETE FROM reruns WHERE case_id = (record->'case'->>'id')::uuid;
    FOREACH part IN ARRAY ARRAY['events', 'analyses', 'artifacts', 'artifact_answers', 'blind_judgements', 'skips',
                                'views', 'questions', 'reruns', 'deliveries'] LOOP
        lines := record->part;
        IF part = 'events' THEN
            SELECT jsonb_agg(e || jsonb_build_object('body', (e->>'body')::jsonb) ORDER BY (e->>'seq')::integer)
                INTO lines FROM jsonb_array_elements(lines) AS e;
        ELSIF part = 'deliveries' THEN
            -- An endpoint that was removed since took its log with it.
            SELECT jsonb_agg(sent) INTO lines FROM jsonb_array_elements(lines) AS sent
                WHERE EXISTS (SELECT FROM endpoints WHERE id = (sent->>'endpoint_id')::uuid);
        END IF;
        SELECT string_agg(quote_ident(attname), ', ') INTO named FROM pg_attribute
            WHERE attrelid = part::regclass AND attnum > 0 AND NOT attisdropped AND lines->0 ? attname;
        IF named IS NOT NULL THEN
            EXECUTE format('INSERT INTO %1$I (%2$s) OVERRIDING SYSTEM VALUE '
                           'SELECT %2$s FROM jsonb_populate_recordset(NULL::%1$I, $1)', part, named) USING lines;
        END IF;
    END LOOP;
    RETURN true;
END $$
"""


def upgrade() -> None:
    op.execute(RESTORE_CASE)


def downgrade() -> None:
    restore: str = import_module("migrations.versions.0001_first_schema").RESTORE_CASE
    op.execute(restore.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
