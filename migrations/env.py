"""Alembic's entry: runs the migrations on the connection that `moderation.database.schema` hands over."""

from alembic import context
from sqlalchemy import text

from migrations.online import IN_THE_WAY
from moderation.database.tables import Table

connection = context.config.attributes["connection"]
for setting in IN_THE_WAY:
    connection.execute(text(setting))
# Or all migrations would be in the transaction that was begun here, and none could leave it.
connection.commit()
context.configure(
    connection=connection, target_metadata=Table.metadata, compare_type=True, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
