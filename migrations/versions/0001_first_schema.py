"""The first schema: cases and all that happens to them, and what Postgres itself holds everybody to.

References to analyses are no foreign keys: the analysis may lie in an archive, and a key without an index on its own
side would read the whole table for each row that leaves.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

#: In an order in which nothing refers any more to the one that goes.
TABLES = (
    "artifacts",
    "artifact_answers",
    "appeals",
    "views",
    "skips",
    "reruns",
    "questions",
    "events",
    "deliveries",
    "decisions",
    "claims",
    "blind_judgements",
    "analyses",
    "sign_ins",
    "cases",
    "sign_in_failures",
    "rollouts",
    "people",
    "heartbeats",
    "endpoints",
    "dead_letters",
    "bundles",
    "archives",
    "api_keys",
)

#: A chain goes on from its last event or not at all. Every chain starts with `accepted`, so that asking for the archive
#: costs the moves of live cases nothing.
CHAIN_EVENT = """
CREATE FUNCTION chain_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_seq integer;
    last_hash bytea;
BEGIN
    -- The case's row is locked by whoever moves the case, so nobody else adds an event to it meanwhile.
    SELECT seq, hash INTO last_seq, last_hash FROM events WHERE case_id = NEW.case_id ORDER BY seq DESC LIMIT 1;
    IF last_seq IS NULL AND NEW.kind <> 'accepted'
       AND EXISTS (SELECT FROM cases WHERE id = NEW.case_id AND archive_id IS NOT NULL) THEN
        RAISE EXCEPTION 'case % is archived: nothing happens to it until it is brought back', NEW.case_id;
    END IF;
    NEW.seq := coalesce(last_seq, 0) + 1;
    NEW.previous := coalesce(last_hash, ''::bytea);
    NEW.hash := sha256(NEW.previous || convert_to(concat_ws('|',
        NEW.case_id, NEW.seq, (extract(epoch FROM NEW.at) * 1000000)::bigint, NEW.kind, NEW.actor, NEW.body), 'UTF8'));
    RETURN NEW;
END $$
"""

#: What is append-only stays so for everybody, but for the functions named here, which run as their owner: erasing
#: overwrites texts, archiving takes rows away that lie in an object.
REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
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
APPEND_ONLY = (
    "events",
    "analyses",
    "artifacts",
    "artifact_answers",
    "blind_judgements",
    "skips",
    "views",
    "rollouts",
)

#: A decision is written once; the one thing that may happen to it later is that it is undone.
ONLY_UNDONE = """
CREATE TRIGGER append_only BEFORE UPDATE OF id, case_id, stage, outcome, technique, reason, policy, person_id,
    analysis_id, verdict, blind_outcome, blind_technique, saw_verdict_first, seconds, created_at, final_at, supersedes
    OR DELETE OR TRUNCATE ON decisions FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""

#: With its owner's rights: whoever may call it can erase, and do nothing else to these tables. Not while the texts lie
#: in an archive: there they are taken out first.
ERASE_CASE = """
CREATE FUNCTION erase_case(wanted uuid, who text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    UPDATE cases SET reason = NULL, context = NULL, external_id = NULL, idempotency_key = NULL, request_digest = '',
                     key = 'erased', version_id = NULL, erased_at = now(), erased_by = who
        WHERE id = wanted AND state = 'decided' AND erased_at IS NULL AND archive_id IS NULL
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

#: The way back. Of each row those columns are put back that its record names and the table still has: what was added
#: since has its default. The trigger numbers and hashes the events anew, in their order: an honest chain comes out the
#: same.
RESTORE_CASE = """
CREATE FUNCTION restore_case(record jsonb) RETURNS boolean
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
    _create_tables()
    for function in (CHAIN_EVENT, REFUSE_CHANGE, ERASE_CASE, ARCHIVE_CASES, RESTORE_CASE):
        op.execute(function)
    for function in ("erase_case", "archive_cases", "restore_case"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    op.execute("CREATE TRIGGER chain BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION chain_event()")
    op.execute(ONLY_UNDONE)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    for function in ("chain_event", "refuse_change", "erase_case", "archive_cases", "restore_case"):
        op.execute(f"DROP FUNCTION {function}")
    op.execute(sa.schema.DropSequence(sa.Sequence("lease_tokens")))


def _create_tables() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("lease_tokens")))
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Whose it is; the default source of its cases"),
        sa.Column(
            "prefix", sa.Text(), nullable=False, comment="The visible part, to find and to recognise it by"
        ),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the whole key"),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("prefix"),
        comment="Platforms' keys. The secret itself is shown once and never stored.",
    )
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
    op.create_table(
        "bundles",
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="Of bundle, preprocessing and pipeline version"
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="Name and version of the bundle, for people"),
        sa.Column("first_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "last_seen",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When a worker last started with it",
        ),
        sa.PrimaryKeyConstraint("fingerprint"),
        comment="What workers were started with: the names that people may use.",
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False, comment="As it came, at most 64 KB"),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("replayed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="Messages nobody could process, kept for an engineer. No case depends on one.",
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column(
            "kinds",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="Which deliveries it takes: case.decided, …",
        ),
        sa.Column("source", sa.Text(), nullable=True, comment="Whose cases; null: all"),
        sa.Column(
            "secrets",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="Newest first; each signs until it is taken out",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        comment="Where platforms want to be told what happened to their cases.",
    )
    op.create_table(
        "heartbeats",
        sa.Column("process", sa.Text(), nullable=False, comment="worker:host:pid, sweeper:host:pid"),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("facts", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("process"),
        comment="When each worker and sweeper was last seen: for `doctor` and the console.",
    )
    op.create_table(
        "people",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False, comment="Lower-cased; what they sign in with"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False, comment="See moderation.people.Role"),
        sa.Column(
            "password_digest", sa.Text(), nullable=True, comment="argon2; null: signs in elsewhere only"
        ),
        sa.Column(
            "preferences",
            postgresql.JSONB(),
            server_default="{}",
            nullable=False,
            comment="How they see pictures",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('reviewer', 'lead', 'admin')", name="people_role_known"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("email"),
        comment="Who may sign in to the console.",
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False, comment="Who said so"),
        sa.Column("action", sa.Text(), nullable=False, comment="See moderation.rollout.Action"),
        sa.Column(
            "serving",
            sa.Text(),
            nullable=True,
            comment="Fingerprint of the bundle that serves; null: each worker's own",
        ),
        sa.Column("candidate", sa.Text(), nullable=True, comment="Fingerprint of the bundle on trial"),
        sa.Column(
            "share",
            sa.Double(),
            nullable=False,
            comment="Part of new cases whose own analysis the candidate makes",
        ),
        sa.Column(
            "shadow",
            sa.Double(),
            nullable=False,
            comment="Part of new cases that the candidate analyses as well, not shown",
        ),
        sa.Column("note", sa.Text(), nullable=True, comment="Why, in the operator's words"),
        sa.CheckConstraint("action IN ('try', 'promote', 'rollback', 'stop')", name="rollouts_action_known"),
        sa.CheckConstraint("share BETWEEN 0 AND 1 AND shadow BETWEEN 0 AND 1", name="rollouts_parts"),
        sa.PrimaryKeyConstraint("id"),
        comment="Which bundle serves and which is on trial. Only ever added to; the newest row is in force.",
    )
    op.create_table(
        "sign_in_failures",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False, comment="Where it came from"),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="Sign-ins that failed lately: what throttling counts.",
    )
    op.create_index("sign_in_failures_address", "sign_in_failures", ["address", "at"])
    op.create_index("sign_in_failures_email", "sign_in_failures", ["email", "at"])
    op.create_table(
        "cases",
        sa.Column("id", sa.Uuid(), nullable=False, comment="UUIDv7: ordered by time of acceptance"),
        sa.Column(
            "source", sa.Text(), nullable=False, comment="The platform, or the part of it, that flagged"
        ),
        sa.Column(
            "external_id", sa.Text(), nullable=True, comment="The platform's own id, unique within its source"
        ),
        sa.Column("idempotency_key", sa.Text(), nullable=True, comment="Of the request that opened the case"),
        sa.Column(
            "request_digest",
            sa.LargeBinary(),
            nullable=False,
            comment="sha256 of what was asked: same key, other digest is a conflict",
        ),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column(
            "version_id", sa.Text(), nullable=True, comment="Null: whatever the key holds when it is fetched"
        ),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it was flagged, in the platform's words"),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="0 to 100, the higher the sooner"),
        sa.Column("context", postgresql.JSONB(), nullable=True, comment="Opaque, echoed back"),
        sa.Column("state", sa.Text(), nullable=False, comment="See moderation.cases.CaseState"),
        sa.Column("version", sa.Integer(), nullable=False, comment="Raised by one with every move"),
        sa.Column(
            "attempts",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Leases that count against the cap",
        ),
        sa.Column(
            "postponements",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Leases handed back because something else was unavailable",
        ),
        sa.Column(
            "expired_leases",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Leases that ran out; any makes the case be analysed alone",
        ),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Not claimed before this",
        ),
        sa.Column(
            "rung_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its id was last put on the queue",
        ),
        sa.Column(
            "lease_token", sa.BigInteger(), nullable=True, comment="Fences every write of the lease's holder"
        ),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column(
            "lease_expires_at", sa.DateTime(timezone=True), nullable=True, comment="By the database's clock"
        ),
        sa.Column(
            "refusal_code",
            sa.Text(),
            nullable=True,
            comment="Why there is no analysis: a code of errors.ImageRejected",
        ),
        sa.Column("refusal_message", sa.Text(), nullable=True, comment="The same for a reviewer"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "ready_at", sa.DateTime(timezone=True), nullable=True, comment="Since when it waits for a person"
        ),
        sa.Column(
            "stage",
            sa.Text(),
            server_default="first",
            nullable=False,
            comment="Which review it waits for or had last: see moderation.cases.Stage",
        ),
        sa.Column(
            "queued_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Its place among the ready: ready_at less its head start, see moderation.triage",
        ),
        sa.Column(
            "analysis_id", sa.Uuid(), nullable=True, comment="The analysis on show; null: there is none"
        ),
        sa.Column("label", sa.Text(), nullable=True, comment="Of the verdict on show, to find cases by"),
        sa.Column("technique", sa.Text(), nullable=True, comment="Of the verdict on show, to find cases by"),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "erased_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its texts and the place of its image were taken away",
        ),
        sa.Column(
            "erased_by", sa.Text(), nullable=True, comment="operator, or sweeper when its time was over"
        ),
        sa.Column(
            "archive_id",
            sa.BigInteger(),
            nullable=True,
            comment="Where its analyses, events and questions lie; null: here",
        ),
        sa.CheckConstraint(
            "(state = 'analyzing') = (lease_token IS NOT NULL) AND (lease_token IS NULL) = (lease_owner IS NULL) AND (lease_token IS NULL) = (lease_expires_at IS NULL)",
            name="cases_lease_whole",
        ),
        sa.CheckConstraint("stage IN ('first', 'second', 'escalated', 'appeal')", name="cases_stage_known"),
        sa.CheckConstraint("state IN ('waiting', 'analyzing', 'ready', 'decided')", name="cases_state_known"),
        sa.CheckConstraint("(refusal_code IS NULL) = (refusal_message IS NULL)", name="cases_refusal_whole"),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name="cases_archive"),
        sa.PrimaryKeyConstraint("id"),
        comment="One flagged image each, from flag to decision. The row is the truth; messages only ring.",
    )
    op.create_index(
        "cases_archived", "cases", ["archive_id"], postgresql_where=sa.text("archive_id IS NOT NULL")
    )
    op.create_index(
        "cases_decided", "cases", ["decided_at", "id"], postgresql_where=sa.text("state = 'decided'")
    )
    op.create_index(
        "cases_external_id",
        "cases",
        ["source", "external_id"],
        unique=True,
        postgresql_where=sa.text("external_id IS NOT NULL"),
    )
    op.create_index(
        "cases_idempotency_key",
        "cases",
        ["source", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "cases_leased", "cases", ["lease_expires_at"], postgresql_where=sa.text("state = 'analyzing'")
    )
    op.create_index("cases_live", "cases", ["state", "id"], postgresql_where=sa.text("state <> 'decided'"))
    op.create_index("cases_queue", "cases", ["queued_at", "id"], postgresql_where=sa.text("state = 'ready'"))
    op.create_index(
        "cases_queue_label",
        "cases",
        ["label", "queued_at", "id"],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "cases_queue_source",
        "cases",
        ["source", "queued_at", "id"],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "cases_queue_stage",
        "cases",
        ["stage", "queued_at", "id"],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index("cases_ready_age", "cases", ["ready_at"], postgresql_where=sa.text("state = 'ready'"))
    op.create_index("cases_source", "cases", ["source", "id"])
    op.create_index(
        "cases_to_archive",
        "cases",
        ["id"],
        postgresql_where=sa.text("state = 'decided' AND archive_id IS NULL"),
    )
    op.create_index(
        "cases_archived_to_erase",
        "cases",
        ["source", "decided_at"],
        postgresql_where=sa.text("state = 'decided' AND erased_at IS NULL AND archive_id IS NOT NULL"),
    )
    op.create_index(
        "cases_to_erase",
        "cases",
        ["source", "decided_at"],
        postgresql_where=sa.text("state = 'decided' AND erased_at IS NULL AND archive_id IS NULL"),
    )
    op.create_index(
        "cases_waiting",
        "cases",
        ["source", sa.literal_column("priority DESC"), "due_at", "id"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "sign_ins",
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="sha256 of the cookie's secret"),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("csrf", sa.Text(), nullable=False, comment="Comes back with every form"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
        ),
        sa.PrimaryKeyConstraint("digest"),
        comment="Sessions of the console, each named by a cookie whose secret is not stored.",
    )
    op.create_index("sign_ins_end", "sign_ins", ["expires_at"])
    op.create_index("sign_ins_person", "sign_ins", ["person_id"])
    op.create_table(
        "analyses",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="Of bundle, preprocessing and pipeline version"
        ),
        sa.Column("bundle", sa.Text(), nullable=False, comment="Name and version of the bundle, for people"),
        sa.Column("image_sha256", sa.LargeBinary(), nullable=False, comment="Of the original bytes"),
        sa.Column(
            "picture",
            postgresql.JSONB(),
            nullable=False,
            comment="Size, format, pixels, frames, what decoding had to do",
        ),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column(
            "score", sa.Double(), nullable=True, comment="In [0, 1]; a probability only when calibrated"
        ),
        sa.Column("calibrated", sa.Boolean(), nullable=False),
        sa.Column("technique", sa.Text(), nullable=True),
        sa.Column("abstain", sa.Text(), nullable=True),
        sa.Column("verdict", postgresql.JSONB(), nullable=False, comment="The image's verdict, whole"),
        sa.Column(
            "faces", postgresql.JSONB(), nullable=False, comment="Per face: box, landmarks, verdict, reply"
        ),
        sa.Column("seconds", postgresql.JSONB(), nullable=False, comment="Spent per stage"),
        sa.Column(
            "reused_from",
            sa.Uuid(),
            nullable=True,
            comment="The analysis of the same bytes that this one repeats",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("label IN ('deepfake', 'bona_fide', 'undetermined')", name="analyses_label_known"),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("case_id", "fingerprint", name="analyses_once"),
        comment="One run of one pipeline on one image each. Written once, never changed.",
    )
    op.create_index("analyses_of_bytes", "analyses", ["image_sha256", "fingerprint"])
    op.create_table(
        "blind_judgements",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("technique", sa.Text(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('deepfake', 'bona_fide', 'cannot_tell', 'escalate')",
            name="blind_judgements_outcome_known",
        ),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
        ),
        sa.PrimaryKeyConstraint("case_id", "person_id"),
        comment="What reviewers said of a case before its verdict was shown to them.",
    )
    op.create_table(
        "claims",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False, comment="Fences every write of its holder"),
        sa.Column("claimed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "expires_at", sa.DateTime(timezone=True), nullable=False, comment="By the database's clock"
        ),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
        ),
        sa.PrimaryKeyConstraint("case_id"),
        comment="Which reviewer has which ready case in front of them: a short lease, renewed.",
    )
    op.create_index("claims_person", "claims", ["person_id"])
    op.create_table(
        "decisions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False, comment="Which review of the case this was"),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("technique", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True, comment="In the reviewer's words"),
        sa.Column("policy", sa.Text(), nullable=True, comment="The rule of the platform it rests on"),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column(
            "analysis_id", sa.Uuid(), nullable=True, comment="What was shown; null: the case had no analysis"
        ),
        sa.Column("verdict", sa.Text(), nullable=True, comment="The label of that analysis"),
        sa.Column("blind_outcome", sa.Text(), nullable=True, comment="Said before the verdict was shown"),
        sa.Column("blind_technique", sa.Text(), nullable=True),
        sa.Column("saw_verdict_first", sa.Boolean(), nullable=False),
        sa.Column(
            "seconds", sa.Double(), nullable=True, comment="From claim to decision; null: decided in bulk"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("final_at", sa.DateTime(timezone=True), nullable=False, comment="End of the undo window"),
        sa.Column(
            "undone_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="The one column that is ever changed",
        ),
        sa.Column(
            "supersedes",
            sa.Uuid(),
            nullable=True,
            comment="The decision of an earlier review whose place it takes",
        ),
        sa.CheckConstraint(
            "outcome IN ('deepfake', 'bona_fide', 'cannot_tell', 'escalate')", name="decisions_outcome_known"
        ),
        sa.CheckConstraint(
            "stage IN ('first', 'second', 'escalated', 'appeal')", name="decisions_stage_known"
        ),
        sa.CheckConstraint("technique IN ('FS', 'FR', 'FE', 'EFS')", name="decisions_technique_known"),
        sa.CheckConstraint(
            "technique IS NULL OR outcome = 'deepfake'", name="decisions_technique_of_deepfake"
        ),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
        ),
        sa.ForeignKeyConstraint(
            ["supersedes"],
            ["decisions.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        comment="What people decided. Only ever added to; one taken back in time keeps its row.",
    )
    op.create_index(
        "decisions_at",
        "decisions",
        ["created_at"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_index("decisions_case", "decisions", ["case_id", "created_at"])
    op.create_index("decisions_person", "decisions", ["person_id", "created_at"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False, comment="The webhook-id, kept over every try"),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("body", postgresql.JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Not sent before this",
        ),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "dead_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was given up; it can be sent again",
        ),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["endpoints.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        comment="Webhooks to send, and what became of those sent.",
    )
    op.create_index("deliveries_case", "deliveries", ["case_id"])
    op.create_index(
        "deliveries_dead", "deliveries", ["created_at"], postgresql_where=sa.text("dead_at IS NOT NULL")
    )
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["endpoint_id", "due_at"],
        postgresql_where=sa.text("delivered_at IS NULL AND dead_at IS NULL"),
    )
    op.create_index("deliveries_endpoint", "deliveries", ["endpoint_id", "created_at"])
    op.create_table(
        "events",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column(
            "seq", sa.Integer(), autoincrement=False, nullable=False, comment="From 1; set by the trigger"
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "actor",
            sa.Text(),
            nullable=False,
            comment="Who did it: platform:…, worker:…, sweeper, operator, reviewer:…",
        ),
        sa.Column(
            "body",
            postgresql.JSONB(),
            nullable=False,
            comment="Facts of the move. No picture, no text of a person",
        ),
        sa.Column(
            "previous",
            sa.LargeBinary(),
            nullable=False,
            comment="Hash of the event before, empty for the first; set by the trigger",
        ),
        sa.Column(
            "hash",
            sa.LargeBinary(),
            nullable=False,
            comment="Set by the trigger; see moderation.database.events",
        ),
        sa.CheckConstraint(
            "kind IN ('accepted', 'analysis_begun', 'lease_handed_back', 'lease_expired', 'analyzed', 'refused', 'retried', 'reanalyzed', 'decided', 'second_review_asked', 'escalated', 'decision_undone', 'decision_withdrawn', 'appealed')",
            name="events_kind_known",
        ),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.PrimaryKeyConstraint("case_id", "seq"),
        comment="Append-only log of every move, hash-chained per case by a trigger.",
    )
    op.create_index(
        "events_at", "events", ["at"], postgresql_using="brin", postgresql_with={"autosummarize": "on"}
    )
    op.create_table(
        "questions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False, comment="platform:NAME or reviewer:ID"),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True, comment="As the model wrote it"),
        sa.Column("failure", sa.Text(), nullable=True, comment="Why there is no answer: a code"),
        sa.Column("fingerprint", sa.Text(), nullable=True, comment="Of the pipeline that answered"),
        sa.Column("bundle", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=True, comment="The model's part of the wait"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "answered_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was answered, or given up",
        ),
        sa.Column(
            "rung_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its id was last put on the queue",
        ),
        sa.Column(
            "begun_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When a worker last took it; null: given back",
        ),
        sa.Column(
            "attempts",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Times a worker took it; the number fences its answer",
        ),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        comment="What people asked DFA-GPT about a picture, and what it answered.",
    )
    op.create_index("questions_case", "questions", ["case_id", "created_at"])
    op.create_index(
        "questions_unanswered", "questions", ["created_at"], postgresql_where=sa.text("answered_at IS NULL")
    )
    op.create_table(
        "reruns",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False, comment="Of the pipeline that is to analyse"),
        sa.Column(
            "shadow",
            sa.Boolean(),
            nullable=False,
            comment="True: not shown; false: takes the place of what is",
        ),
        sa.Column("asked_by", sa.Text(), nullable=False, comment="operator, or rollout for a shadow"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "rung_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its id was last put on the queue",
        ),
        sa.Column(
            "begun_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When a worker last took it; null: given back",
        ),
        sa.Column(
            "attempts",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Times a worker took it; the number fences its analysis",
        ),
        sa.Column(
            "done_at", sa.DateTime(timezone=True), nullable=True, comment="When it was analysed, or given up"
        ),
        sa.Column("failure", sa.Text(), nullable=True, comment="Why there is no analysis: a code"),
        sa.CheckConstraint("failure IS NULL OR done_at IS NOT NULL", name="reruns_failure_is_an_end"),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("case_id", "fingerprint", name="reruns_once"),
        comment="Analyses asked for beside a case's own, in the shadow or to be shown in its place.",
    )
    op.create_index(
        "reruns_waiting", "reruns", ["fingerprint", "id"], postgresql_where=sa.text("done_at IS NULL")
    )
    op.create_table(
        "skips",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        comment="Cases that a reviewer passed on, and why: many skips are the sign of a hard one.",
    )
    op.create_index("skips_case", "skips", ["case_id"])
    op.create_index("skips_person", "skips", ["person_id", "case_id"])
    op.create_table(
        "views",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("person_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="revealed, shown, artifact"),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["person_id"],
            ["people.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        comment="Who looked at which picture, and when.",
    )
    op.create_index(
        "views_at", "views", ["at"], postgresql_using="brin", postgresql_with={"autosummarize": "on"}
    )
    op.create_index("views_case", "views", ["case_id"])
    op.create_table(
        "appeals",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("decision_id", sa.Uuid(), nullable=False, comment="What is appealed against"),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "appellant", sa.Text(), nullable=False, comment="Who passed it on: platform:NAME or reviewer:ID"
        ),
        sa.Column("external_id", sa.Text(), nullable=True, comment="The platform's own id of the appeal"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("resolved_by", sa.Uuid(), nullable=True, comment="The decision that answered it"),
        sa.ForeignKeyConstraint(
            ["case_id"],
            ["cases.id"],
        ),
        sa.ForeignKeyConstraint(
            ["decision_id"],
            ["decisions.id"],
        ),
        sa.ForeignKeyConstraint(
            ["resolved_by"],
            ["decisions.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("decision_id", name="appeals_once"),
        comment="The uploader asks for another decision. One appeal per decision.",
    )
    op.create_index("appeals_case", "appeals", ["case_id"])
    op.create_table(
        "artifact_answers",
        sa.Column("decision_id", sa.Uuid(), nullable=False),
        sa.Column("analysis_id", sa.Uuid(), nullable=False),
        sa.Column("face", sa.SmallInteger(), nullable=False),
        sa.Column("ordinal", sa.SmallInteger(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "answer IN ('agree', 'disagree', 'unclear')", name="artifact_answers_answer_known"
        ),
        sa.ForeignKeyConstraint(
            ["decision_id"],
            ["decisions.id"],
        ),
        sa.PrimaryKeyConstraint("decision_id", "face", "ordinal"),
        comment="Whether a reviewer sees what the model says it sees, artifact by artifact.",
    )
    op.create_table(
        "artifacts",
        sa.Column("analysis_id", sa.Uuid(), nullable=False),
        sa.Column("face", sa.SmallInteger(), nullable=False, comment="Index into analyses.faces"),
        sa.Column("ordinal", sa.SmallInteger(), nullable=False, comment="From 1, in the model's order"),
        sa.Column("heading", sa.Text(), nullable=False, comment="The region in the model's words"),
        sa.Column("regions", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column(
            "polygon",
            postgresql.JSONB(),
            nullable=True,
            comment="Approximate, in pixels; null when there is none to draw",
        ),
        sa.ForeignKeyConstraint(
            ["analysis_id"],
            ["analyses.id"],
        ),
        sa.PrimaryKeyConstraint("analysis_id", "face", "ordinal"),
        comment="The parts of a rationale: what looks wrong and where.",
    )
