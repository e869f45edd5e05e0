"""The schema's life: migrations from empty, the roles, and whether models and migrations agree."""

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
#: What is said where the migrations of this release have not run.
SCHEMA_BEHIND = "the database schema is not that of this release: run `bonafide migrate`"
#: One migration at a time, however many processes start together. Any constant that nobody else uses will do.
_MIGRATION_LOCK = 7_301_001
#: Seconds between two looks whether another migration has ended.
GLANCE_SECONDS = 0.2


def upgrade(database: Database, revision: str = "head") -> str:
    """Bring the schema to `revision`; return the revision it is at. Safe to run from many places at once.

    That of a later release is left as it is: this release runs on it, and knows none of its rights. Raise
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
    """Take the lock of migrations, however long another one takes.

    Asked for again and again, and between two times nothing is open: whoever waited within a statement would hold the
    moment at which it began, for the end of which `CREATE INDEX CONCURRENTLY` of the other waits in turn.
    """
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _MIGRATION_LOCK}):
        connection.rollback()
        time.sleep(GLANCE_SECONDS)
    connection.commit()


def downgrade(database: Database, revision: str) -> None:
    """Take migrations back, for tests and for a release that is rolled back."""
    with database.engine.connect() as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def is_current(database: Database) -> bool:
    """Whether every migration that this release knows has run.

    So it is with the schema of a later release too: migrations only add, and what served before them goes on beside
    them, starts again, and is what a release that is taken back leaves.
    """
    with database.engine.connect() as connection:
        head = ScriptDirectory.from_config(_config(connection)).get_current_head()
        return _revision(connection) == head or _is_later(connection)


def is_later(database: Database) -> bool:
    """Whether the schema is that of a later release."""
    with database.engine.connect() as connection:
        return _is_later(connection)


def missing_roles(database: Database) -> list[str]:
    """Those that `migrate` could not create, or that nobody wanted."""
    with database.engine.connect() as connection:
        return _missing_roles(connection)


def tables_without_rights(database: Database) -> list[str]:
    """Tables that no role may read: the rights of their release were never granted."""
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


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_later(connection: Connection) -> bool:
    """There is one line of migrations: what is not known here comes after all that is."""
    here = _revision(connection)
    known = {one.revision for one in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
    return here is not None and here not in known


def _missing_roles(connection: Connection) -> list[str]:
    query = text(
        "SELECT wanted FROM unnest(CAST(:roles AS text[])) AS wanted WHERE to_regrole(wanted) IS NULL"
    )
    return list(connection.scalars(query, {"roles": list(ROLES)}))


def _grant(connection: Connection) -> None:
    """Create the roles where this user may, and grant them their rights, which the tables' owner always may.

    Elsewhere an administrator runs `roles.sql` once, and there are rights from the next migration on. Raise
    SetupProblem.
    """
    may = connection.scalar(
        text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    )
    if may:
        _run(connection, "roles.sql")
    if not _missing_roles(connection):
        _run(connection, "grants.sql")


def _run(connection: Connection, name: str) -> None:
    # Through the driver itself: the file has many statements, and a `%` in it is a percent sign.
    driver = connection.connection.driver_connection
    assert driver is not None
    try:
        driver.execute(files("moderation.database").joinpath(name).read_text())
    except psycopg.Error as error:
        raise SetupProblem(f"{name} could not be run: {str(error).strip()}") from error
