"""Alembic's entry: runs the migrations on the connection that `moderation.database.schema` hands over."""

from alembic import context
from sqlalchemy import text

from moderation.database.tables import Table

connection = context.config.attributes["connection"]
# A migration that waits behind a long transaction would make everybody else wait behind it: give up instead.
connection.execute(text("SET lock_timeout = '4s'"))
connection.execute(text("SET statement_timeout = '5min'"))
context.configure(
    connection=connection, target_metadata=Table.metadata, compare_type=True, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
