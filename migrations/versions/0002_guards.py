"""Guards: only people decide, whatever a role may write.

A worker and the sweeper may write a case's state, because they move it. Which states they may write a grant cannot say: a
trigger does, for a case that becomes decided or stops being so, for the events that say a person did something, and for
what platforms are told of that. A role that is not a reviewer's is refused, whoever stole its password.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

#: The owner of the table may: an operator's command is not a stolen password, and an owner could drop the trigger.
ONLY_PEOPLE = """
CREATE FUNCTION only_people() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(pg_has_role(current_user, to_regrole('bonafide_reviewer')::oid, 'USAGE'), false)
       OR pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RETURN NEW;
    END IF;
    RAISE insufficient_privilege USING MESSAGE = format('%s is no reviewer: only people decide', current_user);
END $$
"""
#: Where each fires. `WHEN` is looked at without a call: other writes cost nothing.
GUARDS = {
    ("cases", "only_people_move", "UPDATE OF state"): """
        OLD.state <> NEW.state AND 'decided' IN (OLD.state, NEW.state)""",
    ("cases", "only_people_open_decided", "INSERT"): "NEW.state = 'decided'",
    ("events", "only_people_say_so", "INSERT"): """
        NEW.actor LIKE 'reviewer:%'
        OR NEW.kind IN ('decided', 'second_review_asked', 'escalated', 'decision_undone', 'decision_withdrawn', 'appealed')""",
    ("deliveries", "only_people_tell", "INSERT"): "NEW.kind <> 'case.analyzed'",
}


def upgrade() -> None:
    op.execute(ONLY_PEOPLE)
    for (table, name, when), condition in GUARDS.items():
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {when} ON {table} FOR EACH ROW WHEN ({condition}) "
            "EXECUTE FUNCTION only_people()"
        )


def downgrade() -> None:
    for table, name, _ in GUARDS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    op.execute("DROP FUNCTION only_people")
