"""Erasure: a function that takes a decided case's texts away, and the two columns that say so."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

#: What is append-only stays so for everybody, but for the one function below, which runs as its owner; and the log of
#: events for that too.
REFUSE_CHANGE = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME <> 'events' AND current_setting('bonafide.erasing', true) = 'on'
       AND current_user = (SELECT pg_get_userbyid(proowner) FROM pg_proc
                           WHERE oid = to_regprocedure('public.erase_case(uuid, text)')) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$
"""
REFUSE_EVERY_CHANGE = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$
"""

#: With its owner's rights: whoever may call it can erase, and do nothing else to these tables.
ERASE_CASE = """
CREATE FUNCTION erase_case(wanted uuid, who text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE cases SET reason = NULL, context = NULL, external_id = NULL, idempotency_key = NULL, request_digest = '',
                     key = 'erased', version_id = NULL, erased_at = now(), erased_by = who
        WHERE id = wanted AND state = 'decided' AND erased_at IS NULL
          -- What a platform is still to be told, it is told first; after a day of tries that is over as well.
          AND NOT EXISTS (SELECT FROM deliveries
                          WHERE case_id = wanted AND delivered_at IS NULL AND dead_at IS NULL);
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
    UPDATE decisions SET reason = NULL WHERE case_id = wanted;
    UPDATE skips SET reason = 'erased' WHERE case_id = wanted;
    UPDATE appeals SET reason = 'erased', external_id = NULL WHERE case_id = wanted;
    UPDATE questions SET question = 'erased', answer = CASE WHEN answer IS NOT NULL THEN 'erased' END
        WHERE case_id = wanted;
    UPDATE deliveries SET body = '{"erased": true}' WHERE case_id = wanted;
    PERFORM set_config('bonafide.erasing', '', true);
    RETURN true;
END $$
"""


def upgrade() -> None:
    op.add_column(
        "cases",
        sa.Column(
            "erased_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its texts and the place of its image were taken away",
        ),
    )
    op.add_column(
        "cases",
        sa.Column(
            "erased_by", sa.Text(), nullable=True, comment="operator, or sweeper when its time was over"
        ),
    )
    op.create_index(
        "cases_to_erase",
        "cases",
        ["decided_at"],
        postgresql_where=sa.text("state = 'decided' AND erased_at IS NULL"),
    )
    op.execute(REFUSE_CHANGE)
    op.execute(ERASE_CASE)
    op.execute("REVOKE ALL ON FUNCTION erase_case FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION erase_case")
    op.execute(REFUSE_EVERY_CHANGE)
    op.drop_index("cases_to_erase", "cases")
    op.drop_column("cases", "erased_by")
    op.drop_column("cases", "erased_at")
