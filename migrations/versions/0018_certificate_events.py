"""What is done with a certificate is an event, chained by hashes as those of cases are; and one may close its cases.

Only people turn a certificate on, let it close and stop it: a trigger refuses such an event of any other role. The
sweeper may say that it revoked one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"

CHAIN = """
CREATE FUNCTION chain_certificate_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_seq integer;
    last_hash bytea;
BEGIN
    -- The certificate's row is locked by whoever changes it, so nobody else adds an event to it meanwhile.
    SELECT seq, hash INTO last_seq, last_hash FROM certificate_events WHERE certificate_id = NEW.certificate_id
        ORDER BY seq DESC LIMIT 1;
    NEW.seq := coalesce(last_seq, 0) + 1;
    NEW.previous := coalesce(last_hash, ''::bytea);
    NEW.hash := sha256(NEW.previous || convert_to(concat_ws('|', NEW.certificate_id, NEW.seq,
        (extract(epoch FROM NEW.at) * 1000000)::bigint, NEW.kind, NEW.actor, NEW.body), 'UTF8'));
    RETURN NEW;
END $$
"""
TRIGGERS = """
CREATE TRIGGER chain BEFORE INSERT ON certificate_events FOR EACH ROW EXECUTE FUNCTION chain_certificate_event();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON certificate_events FOR EACH STATEMENT
    EXECUTE FUNCTION refuse_change();
CREATE TRIGGER only_people_say_so BEFORE INSERT ON certificate_events FOR EACH ROW
    WHEN (NEW.kind <> 'revoked' OR NEW.actor LIKE 'reviewer:%') EXECUTE FUNCTION only_people();
"""
WHOLE = "(closes_since IS NULL) = (closes_by IS NULL) AND (closes_since IS NULL OR used_since IS NOT NULL)"


def upgrade() -> None:
    op.add_column(
        "certificates",
        sa.Column(
            "closes_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When an admin let it close cases of its zone; null: people decide them",
        ),
    )
    op.add_column("certificates", sa.Column("closes_by", sa.Text(), nullable=True))
    op.add_column(
        "certificates",
        sa.Column(
            "version",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Events of it: see certificate_events",
        ),
    )
    op.create_check_constraint("certificates_closes_whole", "certificates", WHOLE, postgresql_not_valid=True)
    op.execute("ALTER TABLE certificates VALIDATE CONSTRAINT certificates_closes_whole")
    op.create_table(
        "certificate_events",
        sa.Column("certificate_id", sa.Integer(), nullable=False),
        sa.Column(
            "seq", sa.Integer(), autoincrement=False, nullable=False, comment="From 1; set by the trigger"
        ),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="See moderation.evidence.zones.Step"),
        sa.Column("actor", sa.Text(), nullable=False, comment="Who did it: operator, sweeper, reviewer:…"),
        sa.Column("body", postgresql.JSONB(), nullable=False, comment="Facts of it"),
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
        sa.ForeignKeyConstraint(["certificate_id"], ["certificates.id"]),
        sa.PrimaryKeyConstraint("certificate_id", "seq"),
        comment="Append-only log of what was done with each certificate, hash-chained by a trigger.",
    )
    op.execute(CHAIN)
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.drop_table("certificate_events")
    op.execute("DROP FUNCTION chain_certificate_event")
    op.drop_constraint("certificates_closes_whole", "certificates")
    for column in ("version", "closes_by", "closes_since"):
        op.drop_column("certificates", column)
