"""A platform takes an image back: the case ends, without a decision, and nobody looks at its picture any more.

`withdrawn_at` is when, and what the retention of such a case counts from. A trigger takes its renditions away. As only
people decide, only those who act for people or platforms withdraw: no stolen password of a worker ends a case.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0020"
down_revision = "0019"

STATES = "'waiting', 'analyzing', 'ready', 'decided'"
MOVES = (
    "'accepted', 'analysis_begun', 'lease_handed_back', 'lease_expired', 'analyzed', 'refused', 'retried', 'reanalyzed',"
    " 'decided', 'second_review_asked', 'escalated', 'decision_undone', 'decision_withdrawn', 'appealed'"
)
PEOPLE_SAY = """
    NEW.actor LIKE 'reviewer:%'
    OR NEW.kind IN ('decided', 'second_review_asked', 'escalated', 'decision_undone', 'decision_withdrawn', 'appealed'{})"""
PEOPLE_MOVE = "OLD.state <> NEW.state AND ('decided' IN (OLD.state, NEW.state){})"


def upgrade() -> None:
    op.add_column(
        "cases",
        sa.Column(
            "withdrawn_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When its platform took the image back; null: it did not",
        ),
        if_not_exists=True,
    )
    _check(f"{STATES}, 'withdrawn'", f"{MOVES}, 'withdrawn'")
    _guard(", 'withdrawn'", " OR NEW.state = 'withdrawn'")
    op.execute(_erase_case("state IN ('decided', 'withdrawn')"))
    op.execute("DROP TRIGGER IF EXISTS forget_renditions_of_withdrawn ON cases")
    op.execute(
        "CREATE TRIGGER forget_renditions_of_withdrawn AFTER UPDATE OF state ON cases FOR EACH ROW"
        " WHEN (NEW.state = 'withdrawn') EXECUTE FUNCTION forget_renditions()"
    )
    with unhurried():
        op.execute("ALTER TABLE cases VALIDATE CONSTRAINT cases_state_known")
        op.execute("ALTER TABLE events VALIDATE CONSTRAINT events_kind_known")
        op.drop_index("cases_withdrawn", "cases", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            "cases_withdrawn",
            "cases",
            ["source", "withdrawn_at"],
            postgresql_where=sa.text("state = 'withdrawn' AND erased_at IS NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with unhurried():
        op.drop_index("cases_withdrawn", "cases", if_exists=True, postgresql_concurrently=True)
    op.execute("DROP TRIGGER forget_renditions_of_withdrawn ON cases")
    op.execute(_erase_case("state = 'decided'"))
    _guard("", "")
    _check(STATES, MOVES)
    op.drop_column("cases", "withdrawn_at")


def _check(states: str, moves: str) -> None:
    """What is there is looked at later: nobody waits for it."""
    for table, name, condition in (
        ("cases", "cases_state_known", f"state IN ({states})"),
        ("events", "events_kind_known", f"kind IN ({moves})"),
    ):
        op.drop_constraint(name, table, type_="check")
        op.create_check_constraint(name, table, condition, postgresql_not_valid=True)


def _guard(said: str, moved: str) -> None:
    for table, name, when, condition in (
        ("cases", "only_people_move", "UPDATE OF state", PEOPLE_MOVE.format(moved)),
        ("events", "only_people_say_so", "INSERT", PEOPLE_SAY.format(said)),
    ):
        op.execute(
            f"CREATE OR REPLACE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION only_people()"
        )


def _erase_case(which: str) -> str:
    written: str = import_module("migrations.versions.0019_drift").ERASE_CASE
    assert written.count("state = 'decided'") == 1
    return written.replace("state = 'decided'", which)
