"""Indexes by which cases are searched for: the end of an id, the image's key, and what a context holds."""

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0007"
down_revision = "0006"

#: Texts and numbers of a context, at whatever depth: what is looked for is compared with each of them whole.
VALUES = """jsonb_path_query_array(context, 'strict $.** ? (@.type() == "string" || @.type() == "number")')"""


def upgrade() -> None:
    downgrade()  # where this was cut off before, an index is left that is not valid
    with unhurried():
        op.create_index(
            "cases_id_end", "cases", [sa.text("right(CAST(id AS text), 8)")], postgresql_concurrently=True
        )
        op.create_index(
            "cases_key",
            "cases",
            ["key"],
            postgresql_using="hash",
            postgresql_where=sa.text("erased_at IS NULL"),
            postgresql_concurrently=True,
        )
        op.create_index(
            "cases_context",
            "cases",
            [sa.literal_column(VALUES).label("values_within")],
            postgresql_using="gin",
            postgresql_ops={"values_within": "jsonb_path_ops"},
            postgresql_where=sa.text("context IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    with unhurried():
        for index in ("cases_id_end", "cases_key", "cases_context"):
            op.drop_index(index, "cases", if_exists=True, postgresql_concurrently=True)
