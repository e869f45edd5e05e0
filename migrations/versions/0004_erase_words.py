"""Erasing takes every word: what a refusal says of the image's place, the rule that a decision names, what a
receiver's answer repeated.

A case whose decision can still be undone is not erased, or the undo would put it before somebody without its picture.
What waits for an endpoint that is disabled holds nothing up: it is told to nobody any more.
"""

from importlib import import_module

from alembic import op

revision = "0004"
down_revision = "0003"

ERASE_CASE = """
CREATE OR REPLACE FUNCTION erase_case(wanted uuid, who text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    -- Locked before it is looked at: what was committed while we waited is seen.
    PERFORM FROM cases WHERE id = wanted FOR NO KEY UPDATE;
    UPDATE cases SET reason = NULL, context = NULL, external_id = NULL, idempotency_key = NULL, request_digest = '',
                     key = 'erased', version_id = NULL, erased_at = now(), erased_by = who,
                     refusal_message = CASE WHEN refusal_code IS NOT NULL THEN 'erased' END
        WHERE id = wanted AND state = 'decided' AND erased_at IS NULL AND archive_id IS NULL
          AND NOT EXISTS (SELECT FROM decisions WHERE case_id = wanted AND final_at > now())
          -- What a platform is still to be told, it is told first; after a day of tries that is over as well.
          AND NOT EXISTS (SELECT FROM deliveries d JOIN endpoints e ON e.id = d.endpoint_id
                          WHERE d.case_id = wanted AND d.delivered_at IS NULL AND d.dead_at IS NULL
                            AND e.disabled_at IS NULL);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM set_config('bonafide.erasing', 'on', true);
    UPDATE artifacts SET heading = 'erased', text = 'erased', polygon = NULL
        WHERE analysis_id IN (SELECT id FROM analyses WHERE case_id = wanted);
    -- A digest of nothing that was: an empty one would make all erased cases look like the same picture.
    UPDATE analyses SET image_sha256 = sha256(uuid_send(gen_random_uuid())), picture = picture || '{"sha256": ""}',
                        faces = (SELECT coalesce(jsonb_agg(face || '{"reply": null, "landmarks": null}'), '[]')
                                 FROM jsonb_array_elements(faces) AS face)
        WHERE case_id = wanted;
    UPDATE decisions SET reason = NULL, policy = NULL WHERE case_id = wanted;
    UPDATE skips SET reason = 'erased' WHERE case_id = wanted;
    UPDATE appeals SET reason = 'erased', external_id = NULL WHERE case_id = wanted;
    UPDATE questions SET question = 'erased', answer = CASE WHEN answer IS NOT NULL THEN 'erased' END
        WHERE case_id = wanted;
    -- An endpoint that is enabled again would be sent a body without words.
    DELETE FROM deliveries WHERE case_id = wanted AND delivered_at IS NULL AND dead_at IS NULL;
    -- An endpoint's answer may repeat what it was sent.
    UPDATE deliveries SET body = '{"erased": true}', last_error = NULL WHERE case_id = wanted;
    PERFORM set_config('bonafide.erasing', '', true);
    RETURN true;
END $$
"""

#: Of cases that were erased before. Only what was given up keeps an answer, and of that there is little.
FORGET_ANSWERS = """
UPDATE deliveries d SET last_error = NULL
WHERE d.dead_at IS NOT NULL AND d.last_error IS NOT NULL
  AND EXISTS (SELECT FROM cases c WHERE c.id = d.case_id AND c.erased_at IS NOT NULL)
"""


def upgrade() -> None:
    op.execute(ERASE_CASE)
    op.execute(FORGET_ANSWERS)
    op.execute("COMMENT ON COLUMN views.kind IS 'sent, revealed, shown, artifact'")


def downgrade() -> None:
    before: str = import_module("migrations.versions.0001_first_schema").ERASE_CASE
    op.execute(before.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("COMMENT ON COLUMN views.kind IS 'revealed, shown, artifact'")
