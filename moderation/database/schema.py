"""The schema: its migrations, its roles, and whether models and migrations agree."""

import time
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

#: Least privilege: see grants.sql.
ROLES = (
    "bonafide_intake",
    "bonafide_worker",
    "bonafide_sweeper",
    "bonafide_reviewer",
    "bonafide_web",
    "bonafide_archiver",
)
#: The error when this release's migrations have not run.
SCHEMA_BEHIND = "the database schema is not that of this release: run `bonafide migrate`"
#: The lock for one migration at a time, even when many processes start. Any unused constant will do.
_MIGRATION_LOCK = 7_301_001
#: Seconds between two checks whether another migration has ended.
GLANCE_SECONDS = 0.2


def upgrade(database: Database, revision: str = "head") -> str:
    """Bring the schema to `revision`; return its revision. Several processes may run this at the same time.

    The schema of a later release stays as it is: this release runs on it but does not know its rights. Raise
    DatabaseUnavailable when Postgres does not answer.
    """
    database.ping()
    with database.engine.connect() as connection:
        _wait_for_turn(connection)
        try:
            if not _is_later(connection):
                command.upgrade(_config(connection), revision)
                connection.commit()
                _grant(connection)
                connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
        return _revision(connection) or "empty"


def _wait_for_turn(connection: Connection) -> None:
    """Take the lock of migrations, however long another migration takes.

    We ask again and again, with no statement open in between. A statement that waits would hold its snapshot, and the
    other migration's `CREATE INDEX CONCURRENTLY` waits for the end of old snapshots.
    """
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _MIGRATION_LOCK}):
        connection.rollback()
        time.sleep(GLANCE_SECONDS)
    connection.commit()


def downgrade(database: Database, revision: str) -> None:
    """Undo migrations, for tests and for a release that is rolled back."""
    with database.engine.connect() as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def is_current(database: Database) -> bool:
    """Whether every migration that this release knows has run.

    This is also true for the schema of a later release: migrations only add, so an older release runs and starts on it.
    """
    with database.engine.connect() as connection:
        head = ScriptDirectory.from_config(_config(connection)).get_current_head()
        return _revision(connection) == head or _is_later(connection)


def is_later(database: Database) -> bool:
    """Whether the schema is that of a later release."""
    with database.engine.connect() as connection:
        return _is_later(connection)


def missing_roles(database: Database) -> list[str]:
    """The roles that do not exist: `migrate` could not create them, or has not run."""
    with database.engine.connect() as connection:
        return _missing_roles(connection)


def tables_without_rights(database: Database) -> list[str]:
    """Tables that no role may read: their release's rights were never granted."""
    query = text("""
        SELECT c.relname FROM pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
          AND NOT EXISTS (SELECT FROM pg_roles r
                          WHERE r.rolname = ANY (:roles) AND has_any_column_privilege(r.oid, c.oid, 'SELECT'))
        ORDER BY c.relname
    """)
    with database.engine.connect() as connection:
        return list(connection.scalars(query, {"roles": list(ROLES)}))


def drift(database: Database) -> list[object]:
    """The differences between migrations and models. Empty when they agree."""
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


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_later(connection: Connection) -> bool:
    """Migrations form one line: a revision that we do not know comes after all that we know."""
    revision = _revision(connection)
    known = {one.revision for one in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
    return revision is not None and revision not in known


def _missing_roles(connection: Connection) -> list[str]:
    query = text(
        "SELECT wanted FROM unnest(CAST(:roles AS text[])) AS wanted WHERE to_regrole(wanted) IS NULL"
    )
    return list(connection.scalars(query, {"roles": list(ROLES)}))


def _grant(connection: Connection) -> None:
    """Create the roles if this user may, and grant their rights, which the tables' owner always may.

    Otherwise an administrator runs `roles.sql` once, and the next migration grants the rights. Raise SetupProblem.
    """
    may = connection.scalar(
        text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    )
    if may:
        _run(connection, "roles.sql")
    if not _missing_roles(connection):
        _run(connection, "grants.sql")


def _run(connection: Connection, name: str) -> None:
    # Directly through the driver: the file has many statements, and its `%` are percent signs.
    driver = connection.connection.driver_connection
    assert driver is not None
    try:
        driver.execute(files("moderation.database").joinpath(name).read_text())
    except psycopg.Error as error:
        raise SetupProblem(f"{name} could not be run: {str(error).strip()}") from error
