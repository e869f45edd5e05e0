"""The first schema: cases with their events, analyses with their artifacts, keys, dead letters, heartbeats."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

CHAIN_EVENT = """
CREATE FUNCTION chain_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_seq integer;
    last_hash bytea;
BEGIN
    -- The case's row is locked by whoever moves the case, so nobody else adds an event to it meanwhile.
    SELECT seq, hash INTO last_seq, last_hash FROM events WHERE case_id = NEW.case_id ORDER BY seq DESC LIMIT 1;
    NEW.seq := coalesce(last_seq, 0) + 1;
    NEW.previous := coalesce(last_hash, ''::bytea);
    NEW.hash := sha256(NEW.previous || convert_to(concat_ws('|',
        NEW.case_id, NEW.seq, (extract(epoch FROM NEW.at) * 1000000)::bigint, NEW.kind, NEW.actor, NEW.body), 'UTF8'));
    RETURN NEW;
END $$
"""

REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$
"""


def upgrade() -> None:
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
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'analyzing') = (lease_token IS NOT NULL) AND (lease_token IS NULL) = (lease_owner IS NULL) AND (lease_token IS NULL) = (lease_expires_at IS NULL)",
            name="cases_lease_whole",
        ),
        sa.CheckConstraint("state IN ('waiting', 'analyzing', 'ready', 'decided')", name="cases_state_known"),
        sa.CheckConstraint("(refusal_code IS NULL) = (refusal_message IS NULL)", name="cases_refusal_whole"),
        sa.PrimaryKeyConstraint("id"),
        comment="One flagged image each, from flag to decision. The row is the truth; messages only ring.",
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
        "cases_leased",
        "cases",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'analyzing'"),
    )
    op.create_index(
        "cases_live", "cases", ["state", "id"], unique=False, postgresql_where=sa.text("state <> 'decided'")
    )
    op.create_index(
        "cases_ready",
        "cases",
        [sa.literal_column("priority DESC"), "ready_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index("cases_source", "cases", ["source", "id"], unique=False)
    op.create_index(
        "cases_waiting",
        "cases",
        [sa.literal_column("priority DESC"), "due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
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
        "heartbeats",
        sa.Column("process", sa.Text(), nullable=False, comment="worker:host:pid, sweeper:host:pid"),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("facts", postgresql.JSONB(), nullable=False),
        sa.PrimaryKeyConstraint("process"),
        comment="When each worker and sweeper was last seen: for `doctor` and the console.",
    )
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
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("case_id", "fingerprint", name="analyses_once"),
        comment="One run of one pipeline on one image each. Written once, never changed.",
    )
    op.create_index("analyses_of_bytes", "analyses", ["image_sha256", "fingerprint"], unique=False)
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
            "kind IN ('accepted', 'analysis_begun', 'lease_handed_back', 'lease_expired', 'analyzed', 'refused', 'retried', 'decided', 'appealed')",
            name="events_kind_known",
        ),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.PrimaryKeyConstraint("case_id", "seq"),
        comment="Append-only log of every move, hash-chained per case by a trigger.",
    )
    op.create_index(
        "events_at",
        "events",
        ["at"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
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
        sa.ForeignKeyConstraint(["analysis_id"], ["analyses.id"]),
        sa.PrimaryKeyConstraint("analysis_id", "face", "ordinal"),
        comment="The parts of a rationale: what looks wrong and where.",
    )
    op.execute(CHAIN_EVENT)
    op.execute(REFUSE_CHANGE)
    op.execute("CREATE TRIGGER chain BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION chain_event()")
    for table in ("events", "analyses", "artifacts"):
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in ("artifacts", "events", "analyses", "heartbeats", "dead_letters", "cases", "api_keys"):
        op.drop_table(table)
    op.execute("DROP FUNCTION chain_event")
    op.execute("DROP FUNCTION refuse_change")
    op.execute(sa.schema.DropSequence(sa.Sequence("lease_tokens")))
