"""Connections to Postgres that fall silent: nobody waits for ever for what will never be said."""

import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from moderation.database.connection import ANSWER_SECONDS, STATEMENT_TIMEOUT, Database
from moderation.errors import DatabaseUnavailable
from tests.chaos.pipe import Pipe


def test_a_connection_that_falls_silent_is_given_up_and_the_next_one_works(database_url: str) -> None:
    began = time.monotonic()
    with Pipe(database_url) as pipe:
        database = Database(pipe.url, pool_size=1, answer_seconds=1)

        with pytest.raises(DatabaseUnavailable):
            _ask_after_silence(database, pipe, "SELECT 1")
        waited = time.monotonic() - began
        with database.transaction() as session:
            assert session.scalar(text("SELECT 1")) == 1
        database.close()

    assert 1 <= waited < 10


def _ask_after_silence(database: Database, pipe: Pipe, statement: str | None) -> None:
    """Begin a transaction, let the connection fall silent, and go on with this statement, or commit."""
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = version_num"))
        assert pipe.fall_silent() == 1
        if statement is not None:
            session.execute(text(statement))


def test_connections_that_fell_silent_while_they_idled_are_not_used(database_url: str) -> None:
    with Pipe(database_url) as pipe:
        database = Database(pipe.url, pool_size=1, answer_seconds=1)
        database.ping()
        pipe.fall_silent()

        database.ping()
        database.close()


def test_a_commit_that_is_never_answered_counts_as_unavailable(database_url: str) -> None:
    with Pipe(database_url) as pipe:
        database = Database(pipe.url, pool_size=1, answer_seconds=1)

        with pytest.raises(DatabaseUnavailable):
            _ask_after_silence(database, pipe, None)
        database.close()


def test_times_are_utc_whatever_the_server_thinks(database_url: str) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")  # pyright: ignore[reportArgumentType, reportCallIssue]
    database = Database(database_url, pool_size=1)

    with database.transaction() as session:
        read = session.execute(text("SELECT TIMESTAMP '2026-01-01 00:00'::timestamptz")).scalar_one()
    database.close()

    assert (read, read.utcoffset()) == (datetime(2026, 1, 1, tzinfo=UTC), timedelta(0))


def test_a_statement_that_fails_leaves_its_connection_open(database_url: str) -> None:
    database = Database(database_url, pool_size=1, answer_seconds=5)
    pid = "SELECT pg_backend_pid()"
    with database.transaction() as session:
        before = session.scalar(text(pid))
        session.execute(text("SET statement_timeout = '50ms'"))

    with pytest.raises(DatabaseUnavailable), database.transaction() as session:
        session.execute(text("SELECT pg_sleep(2)"))

    with database.transaction() as session:
        assert session.scalar(text(pid)) == before
    database.close()


def test_postgres_ends_a_statement_before_we_give_up_on_it() -> None:
    assert float(STATEMENT_TIMEOUT.removesuffix("s")) < ANSWER_SECONDS
