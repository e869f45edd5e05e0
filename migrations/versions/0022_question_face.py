"""Which face a question is about.

The number is that of the analysis that was on show when it was asked: another one may number the faces otherwise.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column(
        "questions",
        sa.Column(
            "face",
            sa.SmallInteger(),
            comment="Which face, from 1 as on the page. Null: the one that decided, or no face was judged",
        ),
    )
    op.add_column(
        "questions",
        sa.Column("analysis_id", sa.Uuid(), comment="Whose faces are numbered. Null exactly when face is"),
    )


def downgrade() -> None:
    op.drop_column("questions", "analysis_id")
    op.drop_column("questions", "face")
