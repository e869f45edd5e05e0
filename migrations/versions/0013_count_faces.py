"""How many faces were found in a picture, and how many of them judged, beside every analysis.

Null in the analyses of the release before, which kept eight faces at most: the list of faces is all that is known.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column(
        "analyses", sa.Column("faces_found", sa.SmallInteger(), comment="Null before 0013: count `faces`")
    )
    op.add_column(
        "analyses",
        sa.Column("faces_judged", sa.SmallInteger(), comment="How many of them the model was asked about"),
    )


def downgrade() -> None:
    op.drop_column("analyses", "faces_judged")
    op.drop_column("analyses", "faces_found")
