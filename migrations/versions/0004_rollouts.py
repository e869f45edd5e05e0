"""Rolling out a model: bundles that were seen, who serves, analyses asked for once more, and which one is on show."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

KINDS_BEFORE = (
    "accepted",
    "analysis_begun",
    "lease_handed_back",
    "lease_expired",
    "analyzed",
    "refused",
    "retried",
    "decided",
    "second_review_asked",
    "escalated",
    "decision_undone",
    "decision_withdrawn",
    "appealed",
)
KINDS_ADDED = ("reanalyzed",)

#: Until now the newest analysis was the one on show, except beside a refusal.
SHOW_THE_NEWEST = """
UPDATE cases SET analysis_id = newest.id
FROM (SELECT DISTINCT ON (case_id) case_id, id FROM analyses ORDER BY case_id, created_at DESC, id DESC) AS newest
WHERE newest.case_id = cases.id AND cases.state IN ('ready', 'decided') AND cases.refusal_code IS NULL
"""

#: A worker of the release before makes the case ready first and writes the analysis then, and knows no analysis on
#: show. One of this release writes the analysis while the case is still being analysed, and says itself what is shown.
SHOW_WHAT_THE_RELEASE_BEFORE_WRITES = """
CREATE FUNCTION show_analysis() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE cases SET analysis_id = NEW.id
        WHERE id = NEW.case_id AND state = 'ready' AND analysis_id IS NULL AND refusal_code IS NULL;
    RETURN NULL;
END $$
"""


def _know_kinds(kinds: tuple[str, ...]) -> None:
    known = ", ".join(f"'{kind}'" for kind in kinds)
    op.drop_constraint("events_kind_known", "events", type_="check")
    op.create_check_constraint("events_kind_known", "events", f"kind IN ({known})")


def upgrade() -> None:
    _know_kinds(KINDS_BEFORE + KINDS_ADDED)
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
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("case_id", "fingerprint", name="reruns_once"),
        comment="Analyses asked for beside a case's own, in the shadow or to be shown in its place.",
    )
    op.create_index(
        "reruns_waiting", "reruns", ["fingerprint", "id"], postgresql_where=sa.text("done_at IS NULL")
    )
    op.add_column(
        "cases",
        sa.Column(
            "analysis_id", sa.Uuid(), nullable=True, comment="The analysis on show; null: there is none"
        ),
    )
    op.create_foreign_key("cases_analysis", "cases", "analyses", ["analysis_id"], ["id"])
    for column in ("label", "technique"):
        op.alter_column(
            "cases",
            column,
            comment="Of the verdict on show, to find cases by",
            existing_comment="Of the newest verdict, to find cases by",
        )
    op.execute("SET LOCAL statement_timeout = 0")  # as long as there are cases
    op.execute(SHOW_THE_NEWEST)
    op.execute(SHOW_WHAT_THE_RELEASE_BEFORE_WRITES)
    op.execute(
        "CREATE TRIGGER show_analysis AFTER INSERT ON analyses FOR EACH ROW EXECUTE FUNCTION show_analysis()"
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rollouts "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER show_analysis ON analyses")
    op.execute("DROP FUNCTION show_analysis")
    for column in ("label", "technique"):
        op.alter_column(
            "cases",
            column,
            comment="Of the newest verdict, to find cases by",
            existing_comment="Of the verdict on show, to find cases by",
        )
    op.drop_constraint("cases_analysis", "cases", type_="foreignkey")
    op.drop_column("cases", "analysis_id")
    for table in ("reruns", "rollouts", "bundles"):
        op.drop_table(table)
    _know_kinds(KINDS_BEFORE)
