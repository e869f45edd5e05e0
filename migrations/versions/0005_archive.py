"""Archives: what old cases consist of may leave for S3 and come back; the case's row, its decisions and appeals stay.

Two functions are the one way out and the one way back. The first forgets what its caller has written to an object and
read back from it; the second puts it where it was. References to analyses are no foreign keys any more: the analysis
may lie in an archive, and a key without an index on its own side would read the whole table for each row that leaves.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

#: What is append-only stays so for everybody, but for the functions named here, which run as their owner: erasing
#: overwrites texts, archiving takes rows away that lie in an object.
REFUSE_CHANGE = """
CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_TABLE_NAME <> 'events' AND current_setting('bonafide.erasing', true) = 'on'
       AND current_user = (SELECT pg_get_userbyid(proowner) FROM pg_proc
                           WHERE oid = to_regprocedure('public.erase_case(uuid, text)')) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' AND current_setting('bonafide.archiving', true) = 'on'
       AND TG_TABLE_NAME IN ('events', 'analyses', 'artifacts', 'artifact_answers', 'blind_judgements', 'skips', 'views')
       AND current_user = (SELECT pg_get_userbyid(proowner) FROM pg_proc
                           WHERE oid = to_regprocedure('public.archive_cases(uuid[], bigint)')) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$
"""
REFUSE_CHANGE_BEFORE = """
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

#: A chain goes on from its last event or not at all. Every chain starts with `accepted`, so that asking for the archive
#: costs the moves of live cases nothing.
CHAIN_EVENT = """
CREATE OR REPLACE FUNCTION chain_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_seq integer;
    last_hash bytea;
BEGIN
    -- The case's row is locked by whoever moves the case, so nobody else adds an event to it meanwhile.
    SELECT seq, hash INTO last_seq, last_hash FROM events WHERE case_id = NEW.case_id ORDER BY seq DESC LIMIT 1;
    {guard}NEW.seq := coalesce(last_seq, 0) + 1;
    NEW.previous := coalesce(last_hash, ''::bytea);
    NEW.hash := sha256(NEW.previous || convert_to(concat_ws('|',
        NEW.case_id, NEW.seq, (extract(epoch FROM NEW.at) * 1000000)::bigint, NEW.kind, NEW.actor, NEW.body), 'UTF8'));
    RETURN NEW;
END $$
"""
GUARD = """IF last_seq IS NULL AND NEW.kind <> 'accepted'
       AND EXISTS (SELECT FROM cases WHERE id = NEW.case_id AND archive_id IS NOT NULL) THEN
        RAISE EXCEPTION 'case % is archived: nothing happens to it until it is brought back', NEW.case_id;
    END IF;
    """

#: As in 0003, and not while the texts lie in an archive: there they are taken out first.
ERASE_CASE = """
CREATE OR REPLACE FUNCTION erase_case(wanted uuid, who text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE cases SET reason = NULL, context = NULL, external_id = NULL, idempotency_key = NULL, request_digest = '',
                     key = 'erased', version_id = NULL, erased_at = now(), erased_by = who
        WHERE id = wanted AND state = 'decided' AND erased_at IS NULL{archived}
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
    UPDATE analyses SET image_sha256 = sha256(uuid_send(gen_random_uuid())), picture = picture || '{{"sha256": ""}}',
                        faces = (SELECT coalesce(jsonb_agg(face || '{{"reply": null, "landmarks": null}}'), '[]')
                                 FROM jsonb_array_elements(faces) AS face)
        WHERE case_id = wanted;
    UPDATE decisions SET reason = NULL WHERE case_id = wanted;
    UPDATE skips SET reason = 'erased' WHERE case_id = wanted;
    UPDATE appeals SET reason = 'erased', external_id = NULL WHERE case_id = wanted;
    UPDATE questions SET question = 'erased', answer = CASE WHEN answer IS NOT NULL THEN 'erased' END
        WHERE case_id = wanted;
    UPDATE deliveries SET body = '{{"erased": true}}' WHERE case_id = wanted;
    PERFORM set_config('bonafide.erasing', '', true);
    RETURN true;
END $$
"""

#: With its owner's rights. The caller has locked the cases, and has read from the object what is forgotten here.
ARCHIVE_CASES = """
CREATE FUNCTION archive_cases(wanted uuid[], into_archive bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE cases SET archive_id = into_archive, analysis_id = NULL
        WHERE id = ANY (wanted) AND state = 'decided' AND archive_id IS NULL;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(wanted) THEN
        RAISE EXCEPTION 'of % cases only % can be archived', cardinality(wanted), moved;
    END IF;
    PERFORM set_config('bonafide.archiving', 'on', true);
    DELETE FROM artifact_answers WHERE decision_id IN (SELECT id FROM decisions WHERE case_id = ANY (wanted));
    DELETE FROM artifacts WHERE analysis_id IN (SELECT id FROM analyses WHERE case_id = ANY (wanted));
    DELETE FROM analyses WHERE case_id = ANY (wanted);
    DELETE FROM events WHERE case_id = ANY (wanted);
    DELETE FROM blind_judgements WHERE case_id = ANY (wanted);
    DELETE FROM skips WHERE case_id = ANY (wanted);
    DELETE FROM views WHERE case_id = ANY (wanted);
    DELETE FROM questions WHERE case_id = ANY (wanted);
    DELETE FROM deliveries WHERE case_id = ANY (wanted);
    DELETE FROM reruns WHERE case_id = ANY (wanted);
    PERFORM set_config('bonafide.archiving', '', true);
    RETURN moved;
END $$
"""

#: The way back. The trigger numbers and hashes the events anew, in their order: an honest chain comes out the same.
RESTORE_CASE = """
CREATE FUNCTION restore_case(record jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE cases SET archive_id = NULL, analysis_id = (record->'case'->>'analysis_id')::uuid
        WHERE id = (record->'case'->>'id')::uuid AND archive_id IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO events (case_id, seq, at, kind, actor, body, previous, hash)
        SELECT (e->>'case_id')::uuid, 0, (e->>'at')::timestamptz, e->>'kind', e->>'actor', (e->>'body')::jsonb, '', ''
        FROM jsonb_array_elements(record->'events') AS e ORDER BY (e->>'seq')::integer;
    INSERT INTO analyses SELECT * FROM jsonb_populate_recordset(NULL::analyses, record->'analyses');
    INSERT INTO artifacts SELECT * FROM jsonb_populate_recordset(NULL::artifacts, record->'artifacts');
    INSERT INTO artifact_answers
        SELECT * FROM jsonb_populate_recordset(NULL::artifact_answers, record->'artifact_answers');
    INSERT INTO blind_judgements
        SELECT * FROM jsonb_populate_recordset(NULL::blind_judgements, record->'blind_judgements');
    INSERT INTO skips SELECT * FROM jsonb_populate_recordset(NULL::skips, record->'skips');
    INSERT INTO views OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::views, record->'views');
    INSERT INTO questions SELECT * FROM jsonb_populate_recordset(NULL::questions, record->'questions');
    INSERT INTO reruns SELECT * FROM jsonb_populate_recordset(NULL::reruns, record->'reruns');
    -- An endpoint that was removed since took its log with it.
    INSERT INTO deliveries SELECT * FROM jsonb_populate_recordset(NULL::deliveries, record->'deliveries') AS sent
        WHERE EXISTS (SELECT FROM endpoints WHERE id = sent.endpoint_id);
    RETURN true;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("cases", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="Bytes of the object"),
        sa.Column("sha256", sa.LargeBinary(), nullable=False, comment="Of the cases' lines, unpacked"),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Since when the cases are in it alone. Null: in the making, or left over and to be removed",
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("bucket", "key", name="archives_place"),
        comment="Objects of S3 that hold what old cases consist of.",
    )
    op.add_column(
        "cases",
        sa.Column(
            "archive_id",
            sa.BigInteger(),
            nullable=True,
            comment="Where its analyses, events and questions lie; null: here",
        ),
    )
    op.create_foreign_key("cases_archive", "cases", "archives", ["archive_id"], ["id"])
    op.create_index(
        "cases_to_archive",
        "cases",
        ["id"],
        postgresql_where=sa.text("state = 'decided' AND archive_id IS NULL"),
    )
    op.create_index(
        "cases_archived", "cases", ["archive_id"], postgresql_where=sa.text("archive_id IS NOT NULL")
    )
    op.drop_constraint("decisions_analysis_id_fkey", "decisions", type_="foreignkey")
    op.drop_constraint(
        "artifact_answers_analysis_id_face_ordinal_fkey", "artifact_answers", type_="foreignkey"
    )
    op.drop_constraint("cases_analysis", "cases", type_="foreignkey")
    op.execute(REFUSE_CHANGE)
    op.execute(CHAIN_EVENT.format(guard=GUARD))
    op.execute(ERASE_CASE.format(archived=" AND archive_id IS NULL"))
    op.execute(ARCHIVE_CASES)
    op.execute(RESTORE_CASE)
    for function in ("archive_cases", "restore_case"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def downgrade() -> None:
    """Refused by the foreign keys while anything is archived: bring it back first."""
    op.create_foreign_key("cases_analysis", "cases", "analyses", ["analysis_id"], ["id"])
    op.create_foreign_key(
        "artifact_answers_analysis_id_face_ordinal_fkey",
        "artifact_answers",
        "artifacts",
        ["analysis_id", "face", "ordinal"],
        ["analysis_id", "face", "ordinal"],
    )
    op.create_foreign_key("decisions_analysis_id_fkey", "decisions", "analyses", ["analysis_id"], ["id"])
    op.execute("DROP FUNCTION restore_case")
    op.execute("DROP FUNCTION archive_cases")
    op.execute(ERASE_CASE.format(archived=""))
    op.execute(CHAIN_EVENT.format(guard=""))
    op.execute(REFUSE_CHANGE_BEFORE)
    op.drop_index("cases_archived", "cases")
    op.drop_index("cases_to_archive", "cases")
    op.drop_constraint("cases_archive", "cases", type_="foreignkey")
    op.drop_column("cases", "archive_id")
    op.drop_table("archives")
