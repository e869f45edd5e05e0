"""Review: people and their sign-ins, claims, decisions, appeals, questions, and the webhooks that tell of them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

KINDS_BEFORE = (
    "accepted",
    "analysis_begun",
    "lease_handed_back",
    "lease_expired",
    "analyzed",
    "refused",
    "retried",
    "decided",
    "appealed",
)
KINDS_ADDED = ("second_review_asked", "escalated", "decision_undone", "decision_withdrawn")

#: What was ready before has its place in the queue and its verdict to be found by. 864 seconds: triage's head start
#: per point of priority.
PLACE_THE_READY = """
UPDATE cases SET queued_at = cases.ready_at - make_interval(secs => 864 * cases.priority),
                 label = newest.label, technique = newest.technique
FROM cases AS c LEFT JOIN LATERAL (
    SELECT label, technique FROM analyses WHERE case_id = c.id ORDER BY created_at DESC LIMIT 1
) AS newest ON c.refusal_code IS NULL
WHERE cases.id = c.id AND cases.state = 'ready'
"""

#: A decision is written once; the one thing that may happen to it later is that it is undone.
ONLY_UNDONE = """
CREATE TRIGGER append_only BEFORE UPDATE OF id, case_id, stage, outcome, technique, reason, policy, person_id,
    analysis_id, verdict, blind_outcome, blind_technique, saw_verdict_first, seconds, created_at, final_at, supersedes
    OR DELETE OR TRUNCATE ON decisions FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""
APPEND_ONLY = ("artifact_answers", "blind_judgements", "skips", "views")


def _know_kinds(kinds: tuple[str, ...]) -> None:
    known = ", ".join(f"'{kind}'" for kind in kinds)
    op.drop_constraint("events_kind_known", "events", type_="check")
    op.create_check_constraint("events_kind_known", "events", f"kind IN ({known})")


def upgrade() -> None:
    _know_kinds(KINDS_BEFORE + KINDS_ADDED)
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
        "sign_in_failures",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False, comment="Where it came from"),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        comment="Sign-ins that failed lately: what throttling counts.",
    )
    op.create_index("sign_in_failures_address", "sign_in_failures", ["address", "at"], unique=False)
    op.create_index("sign_in_failures_email", "sign_in_failures", ["email", "at"], unique=False)
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
    op.create_index("claims_person", "claims", ["person_id"], unique=False)
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
    op.create_index("deliveries_case", "deliveries", ["case_id"], unique=False)
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["endpoint_id", "due_at"],
        unique=False,
        postgresql_where=sa.text("delivered_at IS NULL AND dead_at IS NULL"),
    )
    op.create_index("deliveries_endpoint", "deliveries", ["endpoint_id", "created_at"], unique=False)
    op.create_index(
        "deliveries_dead",
        "deliveries",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("dead_at IS NOT NULL"),
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
    op.create_index("questions_case", "questions", ["case_id", "created_at"], unique=False)
    op.create_index(
        "questions_unanswered",
        "questions",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("answered_at IS NULL"),
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
    op.create_index("sign_ins_end", "sign_ins", ["expires_at"], unique=False)
    op.create_index("sign_ins_person", "sign_ins", ["person_id"], unique=False)
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
    op.create_index("skips_case", "skips", ["case_id"], unique=False)
    op.create_index("skips_person", "skips", ["person_id", "case_id"], unique=False)
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
        "views_at",
        "views",
        ["at"],
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_index("views_case", "views", ["case_id"], unique=False)
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
            ["analysis_id"],
            ["analyses.id"],
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
        unique=False,
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_index("decisions_case", "decisions", ["case_id", "created_at"], unique=False)
    op.create_index("decisions_person", "decisions", ["person_id", "created_at"], unique=False)
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
    op.create_index("appeals_case", "appeals", ["case_id"], unique=False)
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
            ["analysis_id", "face", "ordinal"],
            ["artifacts.analysis_id", "artifacts.face", "artifacts.ordinal"],
        ),
        sa.ForeignKeyConstraint(
            ["decision_id"],
            ["decisions.id"],
        ),
        sa.PrimaryKeyConstraint("decision_id", "face", "ordinal"),
        comment="Whether a reviewer sees what the model says it sees, artifact by artifact.",
    )
    op.add_column(
        "cases",
        sa.Column(
            "stage",
            sa.Text(),
            server_default="first",
            nullable=False,
            comment="Which review it waits for or had last: see moderation.cases.Stage",
        ),
    )
    op.add_column(
        "cases",
        sa.Column(
            "queued_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Its place among the ready: ready_at less its head start, see moderation.triage",
        ),
    )
    op.add_column(
        "cases",
        sa.Column("label", sa.Text(), nullable=True, comment="Of the newest verdict, to find cases by"),
    )
    op.add_column(
        "cases",
        sa.Column("technique", sa.Text(), nullable=True, comment="Of the newest verdict, to find cases by"),
    )
    op.add_column("cases", sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("cases_ready", table_name="cases")
    op.create_index(
        "cases_queue", "cases", ["queued_at", "id"], unique=False, postgresql_where=sa.text("state = 'ready'")
    )
    op.create_index(
        "cases_queue_label",
        "cases",
        ["label", "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "cases_queue_source",
        "cases",
        ["source", "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "cases_queue_stage",
        "cases",
        ["stage", "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.alter_column("cases", "ready_at", comment="Since when it waits for a person", existing_comment=None)
    op.create_index("cases_ready_age", "cases", ["ready_at"], postgresql_where=sa.text("state = 'ready'"))
    op.create_index(
        "cases_decided", "cases", ["decided_at", "id"], postgresql_where=sa.text("state = 'decided'")
    )
    op.create_check_constraint(
        "cases_stage_known", "cases", "stage IN ('first', 'second', 'escalated', 'appeal')"
    )
    op.execute(PLACE_THE_READY)
    op.execute(ONLY_UNDONE)
    for table in APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def downgrade() -> None:
    for table in (
        "artifact_answers",
        "appeals",
        "decisions",
        "views",
        "skips",
        "sign_ins",
        "questions",
        "deliveries",
        "claims",
        "blind_judgements",
        "sign_in_failures",
        "people",
        "endpoints",
    ):
        op.drop_table(table)
    op.alter_column("cases", "ready_at", comment=None, existing_comment="Since when it waits for a person")
    for index in ("queue", "queue_label", "queue_source", "queue_stage", "ready_age", "decided"):
        op.drop_index(f"cases_{index}", "cases")
    op.create_index(
        "cases_ready",
        "cases",
        [sa.literal_column("priority DESC"), "ready_at", "id"],
        postgresql_where=sa.text("state = 'ready'"),
    )
    op.drop_constraint("cases_stage_known", "cases", type_="check")
    for column in ("stage", "queued_at", "label", "technique", "decided_at"):
        op.drop_column("cases", column)
    _know_kinds(KINDS_BEFORE)
