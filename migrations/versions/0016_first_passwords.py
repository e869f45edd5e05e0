"""A first password, which somebody else knows too, is changed by whoever signs in with it."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column(
        "people",
        sa.Column(
            "first_password",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Somebody else made the password and knows it: they choose their own before anything else",
        ),
    )
    op.add_column(
        "sign_ins",
        sa.Column(
            "first_password",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="Begun with a first password",
        ),
    )


def downgrade() -> None:
    op.drop_column("sign_ins", "first_password")
    op.drop_column("people", "first_password")
