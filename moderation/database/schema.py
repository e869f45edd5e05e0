"""The schema's life: migrations from empty, the roles, and whether models and migrations agree."""

from importlib.resources import files
from pathlib import Path

import psycopg
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

import migrations
from moderation.database.connection import Database
from moderation.database.tables import Table
from moderation.errors import SetupProblem

#: One migration at a time, however many processes start together. Any constant that nobody else uses will do.
_MIGRATION_LOCK = 7_301_001


def upgrade(database: Database, revision: str = "head") -> str:
    """Bring the schema to `revision`; return the revision it is at. Safe to run from many places at once.

    Raise DatabaseUnavailable when Postgres does not answer.
    """
    database.ping()
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()
        try:
            command.upgrade(_config(connection), revision)
            connection.commit()
            _create_roles(connection)
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
        return MigrationContext.configure(connection).get_current_revision() or "empty"


def downgrade(database: Database, revision: str) -> None:
    """Take migrations back, for tests and for a release that is rolled back."""
    with database.engine.connect() as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def is_current(database: Database) -> bool:
    """Whether every migration that this release knows has run."""
    with database.engine.connect() as connection:
        head = ScriptDirectory.from_config(_config(connection)).get_current_head()
        return MigrationContext.configure(connection).get_current_revision() == head


def drift(database: Database) -> list[object]:
    """What the migrations made that the models do not say, and the other way round. Empty when they agree."""
    with database.engine.connect() as connection:
        return list(
            compare_metadata(
                MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata
            )
        )


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def _create_roles(connection: Connection) -> None:
    """Create and grant the roles, where this user may. Elsewhere an administrator runs `roles.sql` once."""
    may = connection.scalar(
        text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    )
    if not may:
        return
    # Through the driver itself: the file has many statements, and a `%` in it is a percent sign.
    driver = connection.connection.driver_connection
    assert driver is not None
    try:
        driver.execute(files("moderation.database").joinpath("roles.sql").read_text())
    except psycopg.Error as error:
        raise SetupProblem(f"the database roles could not be created: {str(error).strip()}") from error
