"""Certificates: what the model may be trusted with on this installation's own traffic, and which cases one moved."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=True, comment="Whose cases; null: all"),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="Of the pipeline whose scores were judged"
        ),
        sa.Column("zone", sa.Text(), nullable=False, comment="clear: below the threshold; likely: above it"),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("error", sa.Float(), nullable=False, comment="The part of the zone that may be wrong"),
        sa.Column("confidence", sa.Float(), nullable=False),
        sa.Column(
            "n", sa.Integer(), nullable=False, comment="Pictures inside the zone that were judged blind"
        ),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column(
            "bound", sa.Float(), nullable=False, comment="The error is not larger, as sure as was asked"
        ),
        sa.Column(
            "since", sa.DateTime(timezone=True), nullable=False, comment="When its labels were given: from"
        ),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, comment="And to"),
        sa.Column("issued_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("issued_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "used_since",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When an admin turned it on; null: it is not used",
        ),
        sa.Column("used_by", sa.Text(), nullable=True),
        sa.Column(
            "audited_n",
            sa.Integer(),
            nullable=True,
            comment="At the last look: judged blind inside the zone lately",
        ),
        sa.Column("audited_errors", sa.Integer(), nullable=True),
        sa.Column("audited_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "revoked_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="For good: a new one is issued instead",
        ),
        sa.Column("revoked_because", sa.Text(), nullable=True),
        sa.CheckConstraint("zone IN ('clear', 'likely')", name="certificates_zone_known"),
        sa.CheckConstraint(
            "(revoked_at IS NULL) = (revoked_because IS NULL)", name="certificates_revoked_whole"
        ),
        sa.CheckConstraint("(used_since IS NULL) = (used_by IS NULL)", name="certificates_used_whole"),
        sa.PrimaryKeyConstraint("id"),
        comment="What the model may be trusted with: see moderation.evidence.certify.",
    )
    op.add_column(
        "cases",
        sa.Column(
            "certificate_id",
            sa.Integer(),
            nullable=True,
            comment="By which certificate its place in the queue was moved; null: by none",
        ),
    )


def downgrade() -> None:
    op.drop_column("cases", "certificate_id")
    op.drop_table("certificates")
