from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from typer.testing import CliRunner, Result

from moderation.cli.main import app
from moderation.database import schema
from moderation.database.cases import insert_case
from moderation.database.connection import Database
from moderation.database.moves import retry_case
from moderation.errors import DatabaseUnavailable, SetupProblem
from moderation.local import Addresses, as_role
from moderation.settings import settings as read_settings
from tests.builders import an_opening
from tests.conftest import fresh_database
from tests.integration.conftest import ready, refused
from worker.lifecycle import _wait_for_schema  # pyright: ignore[reportPrivateUsage]


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    assert schema.drift(database) == []


def test_migrations_run_again_without_harm(database: Database) -> None:
    assert schema.upgrade(database) == schema.upgrade(database)
    assert schema.is_current(database)


def test_migrations_can_be_taken_back_and_run_again(database: Database) -> None:
    schema.downgrade(database, "base")

    assert not schema.is_current(database)

    schema.upgrade(database)

    assert schema.is_current(database)
    assert schema.drift(database) == []


def test_migrations_from_two_places_at_once_both_arrive(servers: Addresses) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(fresh_database(servers.database_url, "template1"))
        databases = [Database(url, pool_size=1) for _ in range(2)]
        for database in databases:
            stack.callback(database.close)
        threads = stack.enter_context(ThreadPoolExecutor(2))

        arrived = list(threads.map(schema.upgrade, databases))

    assert arrived[0] == arrived[1] != "empty"


def test_whoever_waits_for_another_migration_holds_up_none_of_its_indexes(
    database: Database, database_url: str
) -> None:
    with psycopg.connect(database_url, autocommit=True) as first, ThreadPoolExecutor(1) as threads:
        first.execute("SELECT pg_advisory_lock(7301001)")
        second = threads.submit(schema.upgrade, database)
        waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%advisory_lock($1%'"
        while first.execute(waits + " AND pid <> pg_backend_pid()").fetchone() is None:
            assert not second.done()

        first.execute("CREATE INDEX CONCURRENTLY beside ON cases (bucket)")
        first.execute("DROP INDEX beside")
        first.execute("SELECT pg_advisory_unlock(7301001)")

        assert second.result() != "empty"


Command = Callable[..., Result]


@pytest.fixture
def bonafide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs a command on the database of this address."""

    def run(database_url: str, *words: str) -> Result:
        monkeypatch.setenv("BONAFIDE_DATABASE_URL", database_url)
        read_settings.cache_clear()
        return CliRunner().invoke(app, words)

    yield run
    read_settings.cache_clear()


@pytest.fixture
def migrated_by_a_later_release(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))


@pytest.mark.usefixtures("migrated_by_a_later_release")
def test_the_release_before_serves_beside_a_later_one(api: TestClient, database: Database) -> None:
    _wait_for_schema(database, 0)  # a worker of it that restarts

    assert api.get("/readyz").status_code == 200
    assert schema.is_later(database)


def test_an_older_schema_is_waited_for(api: TestClient, database: Database) -> None:
    schema.downgrade(database, "0001")

    assert api.get("/readyz").status_code == 503
    with pytest.raises(SetupProblem, match="bonafide migrate"):
        _wait_for_schema(database, 0)


@pytest.mark.usefixtures("migrated_by_a_later_release")
def test_a_release_that_is_taken_back_changes_no_schema_and_no_right(
    database: Database, database_url: str, bonafide: Command
) -> None:
    with database.transaction() as session:
        session.execute(text("REVOKE SELECT ON claims FROM bonafide_worker"))

    checked, migrated = bonafide(database_url, "migrate", "--check"), bonafide(database_url, "migrate")

    assert (checked.exit_code, migrated.exit_code) == (1, 0)
    assert "later release" in migrated.output
    assert not _may_read(database, "bonafide_worker", "claims")


def _may_read(database: Database, role: str, table: str) -> bool:
    with database.transaction() as session:
        return bool(session.scalar(text(f"SELECT has_table_privilege('{role}', '{table}', 'SELECT')")))


@pytest.fixture
def owned(database_url: str) -> Iterator[str]:
    """The URL of an empty database whose owner may create no roles."""
    name, word = f"bonafide_test_{uuid4().hex[:8]}", uuid4().hex
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute(f"CREATE USER {name} PASSWORD '{word}'")  # pyright: ignore[reportArgumentType, reportCallIssue]
        server.execute(f"CREATE DATABASE {name} OWNER {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
        parts = urlsplit(database_url)
        place = parts.netloc.rpartition("@")[2]
        try:
            yield urlunsplit(parts._replace(netloc=f"{name}:{word}@{place}", path=f"/{name}"))
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")  # pyright: ignore[reportArgumentType, reportCallIssue]
            server.execute(f"DROP USER {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_an_owner_who_may_create_no_roles_grants_those_that_are_there(owned: str) -> None:
    database = Database(owned, pool_size=1)

    schema.upgrade(database)

    assert schema.missing_roles(database) == []
    assert schema.tables_without_rights(database) == []
    assert _may_read(database, "bonafide_worker", "cases")
    assert not _may_read(database, "bonafide_worker", "people")
    database.close()


def test_an_owner_without_roles_is_told_of_it(owned: str, database_url: str, bonafide: Command) -> None:
    with psycopg.connect(database_url, autocommit=True) as server:
        server.execute("ALTER ROLE bonafide_archiver RENAME TO bonafide_test_archiver")
        try:
            migrated = bonafide(owned, "migrate")
        finally:
            server.execute("ALTER ROLE bonafide_test_archiver RENAME TO bonafide_archiver")

    assert migrated.exit_code == 0
    assert "bonafide_archiver are missing" in migrated.output
    assert "roles.sql" in migrated.output


def test_every_table_says_what_it_is_for(database: Database) -> None:
    silent = text("""
        SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind = 'r' AND nspname = 'public' AND obj_description(pg_class.oid) IS NULL
          AND relname <> 'alembic_version'
    """)
    with database.transaction() as session:
        assert session.scalars(silent).all() == []


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("events", "case_id"),
        ("analyses", "case_id"),
        ("artifacts", "analysis_id"),
        ("decisions", "outcome"),
        ("artifact_answers", "answer"),
        ("blind_judgements", "outcome"),
        ("skips", "reason"),
        ("views", "case_id"),
    ],
)
@pytest.mark.parametrize(
    "change", ["UPDATE {} SET {column} = {column}", "DELETE FROM {}", "TRUNCATE {} CASCADE"]
)
def test_what_is_written_stays_written_even_for_the_owner(
    database_url: str, table: str, column: str, change: str
) -> None:
    statement = change.format(table, column=column)
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="append-only"),
    ):
        connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        pytest.param("bonafide_worker", "INSERT INTO cases DEFAULT VALUES", id="a worker opens no case"),
        pytest.param("bonafide_worker", "UPDATE cases SET priority = 9", id="a worker changes no flag"),
        pytest.param("bonafide_worker", "UPDATE cases SET bucket = 'mine'", id="a worker changes no image"),
        pytest.param("bonafide_worker", "SELECT digest FROM api_keys", id="a worker reads no keys"),
        pytest.param("bonafide_worker", "DELETE FROM cases", id="a worker deletes nothing"),
        pytest.param("bonafide_worker", "UPDATE events SET actor = 'x'", id="a worker rewrites no history"),
        pytest.param("bonafide_web", "INSERT INTO evidence DEFAULT VALUES", id="the web gathers no evidence"),
        pytest.param("bonafide_intake", "SELECT thumbnail FROM renditions", id="intake sees no picture"),
        pytest.param(
            "bonafide_reviewer", "UPDATE renditions SET shown = ''", id="a reviewer edits no picture"
        ),
        pytest.param("bonafide_intake", "INSERT INTO analyses DEFAULT VALUES", id="intake gives no verdict"),
        pytest.param("bonafide_intake", "UPDATE cases SET state = 'ready'", id="intake moves no case"),
        pytest.param(
            "bonafide_sweeper", "INSERT INTO analyses DEFAULT VALUES", id="the sweeper gives no verdict"
        ),
        pytest.param(
            "bonafide_sweeper", "UPDATE cases SET attempts = 0", id="the sweeper forgives no attempt"
        ),
        pytest.param(
            "bonafide_reviewer", "UPDATE analyses SET label = 'bona_fide'", id="a reviewer edits no verdict"
        ),
        pytest.param("bonafide_reviewer", "UPDATE cases SET bucket = 'mine'", id="a reviewer edits no image"),
        pytest.param(
            "bonafide_reviewer", "UPDATE decisions SET outcome = 'x'", id="a decision is not edited"
        ),
        pytest.param(
            "bonafide_worker", "INSERT INTO decisions DEFAULT VALUES", id="a worker decides nothing"
        ),
        pytest.param("bonafide_worker", "SELECT password_digest FROM people", id="a worker knows no people"),
        pytest.param("bonafide_worker", "SELECT secrets FROM endpoints", id="a worker signs no webhook"),
        pytest.param("bonafide_intake", "SELECT password_digest FROM people", id="intake reads no password"),
        pytest.param("bonafide_intake", "INSERT INTO claims DEFAULT VALUES", id="intake claims nothing"),
        pytest.param(
            "bonafide_sweeper", "UPDATE questions SET answer = 'x'", id="the sweeper answers nothing"
        ),
    ],
)
def test_a_role_can_do_its_own_work_and_no_other(database_url: str, role: str, statement: str) -> None:
    with (
        psycopg.connect(as_role(database_url, role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]


#: What would make a case decided, undo that, or say that a person did. `{case}` is ready, `{done}` decided.
_DECISIONS = [
    pytest.param("UPDATE cases SET state = 'decided' WHERE id = '{case}'", id="decides"),
    pytest.param("UPDATE cases SET state = 'ready' WHERE id = '{done}'", id="takes a decision back"),
    pytest.param("UPDATE cases SET state = 'withdrawn' WHERE id = '{case}'", id="takes an image back"),
    pytest.param(
        "UPDATE cases SET state = 'waiting' WHERE id = '{done}'", id="analyses a decided case again"
    ),
    pytest.param(
        "INSERT INTO events (case_id, kind, actor, body, seq, previous, hash)"
        " VALUES ('{case}', 'decided', 'worker:w', '{{}}', 0, '', '')",
        id="logs a decision",
    ),
    pytest.param(
        "INSERT INTO events (case_id, kind, actor, body, seq, previous, hash)"
        " VALUES ('{case}', 'analyzed', 'reviewer:ada', '{{}}', 0, '', '')",
        id="logs in a person's name",
    ),
    pytest.param(
        "INSERT INTO deliveries (id, endpoint_id, case_id, kind, body)"
        " SELECT gen_random_uuid(), id, '{case}', 'case.decided', '{{}}' FROM endpoints",
        id="tells a platform of a decision",
    ),
]


@pytest.fixture
def two_cases(database: Database) -> dict[str, UUID]:
    """One that is ready, one that is decided, and a platform that wants to know."""
    cases = {"case": ready(database), "done": ready(database)}
    with database.transaction() as session:
        session.execute(
            text("UPDATE cases SET state = 'decided', decided_at = now() WHERE id = :id"),
            {"id": cases["done"]},
        )
        session.execute(
            text(
                "INSERT INTO endpoints (id, url, kinds, secrets)"
                " VALUES (gen_random_uuid(), 'https://x.example', '{}', '{}')"
            )
        )
    return cases


@pytest.mark.parametrize("role", ["bonafide_worker", "bonafide_sweeper"])
@pytest.mark.parametrize("statement", _DECISIONS)
def test_only_people_decide_whoever_holds_a_workers_password(
    database_url: str, two_cases: dict[str, UUID], role: str, statement: str
) -> None:
    with (
        psycopg.connect(as_role(database_url, role)) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="only people decide"),
    ):
        connection.execute(statement.format(**two_cases))  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("statement", _DECISIONS)
def test_what_a_worker_is_refused_the_console_may(
    database_url: str, two_cases: dict[str, UUID], statement: str
) -> None:
    with psycopg.connect(as_role(database_url, "bonafide_web")) as connection:
        done = connection.execute(statement.format(**two_cases))  # pyright: ignore[reportArgumentType, reportCallIssue]

    assert done.rowcount == 1


def test_a_login_with_the_workers_role_cannot_decide_and_one_with_the_reviewers_can(
    database_url: str, two_cases: dict[str, UUID]
) -> None:
    """As deploy/sql/users.sql makes them: users of their own, not a role that the owner takes on."""
    parts = urlsplit(database_url)
    name, word = f"bonafide_test_{uuid4().hex[:8]}", uuid4().hex
    address = urlunsplit(parts._replace(netloc=f"{name}:{word}@{parts.netloc.rpartition('@')[2]}"))
    decide = f"UPDATE cases SET state = 'decided' WHERE id = '{two_cases['case']}'"
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(f"CREATE USER {name} PASSWORD '{word}' IN ROLE bonafide_worker")  # pyright: ignore[reportArgumentType, reportCallIssue]
        try:
            with (
                psycopg.connect(address) as thief,
                pytest.raises(psycopg.errors.InsufficientPrivilege, match="only people decide"),
            ):
                thief.execute(decide)  # pyright: ignore[reportArgumentType, reportCallIssue]
            with psycopg.connect(address) as thief, pytest.raises(psycopg.errors.InsufficientPrivilege):
                thief.execute("SET ROLE bonafide_reviewer")
            owner.execute(f"GRANT bonafide_reviewer TO {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
            with psycopg.connect(address) as reviewer:
                assert reviewer.execute(decide).rowcount == 1  # pyright: ignore[reportArgumentType, reportCallIssue]
        finally:
            owner.execute(f"DROP USER {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_intake_opens_no_decided_case(database_url: str) -> None:
    opening = (
        "INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version)"
        " VALUES (gen_random_uuid(), 's', '', 'b', 'k', 0, 'decided', 1)"
    )
    with (
        psycopg.connect(as_role(database_url, "bonafide_intake")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="only people decide"),
    ):
        connection.execute(opening)


def test_intake_can_open_a_case_with_its_own_role(database_url: str) -> None:
    intake = Database(as_role(database_url, "bonafide_intake"), pool_size=1)

    with intake.transaction() as session:
        opened = insert_case(session, an_opening(), actor="platform:test")

    assert opened
    intake.close()


def test_a_worker_may_put_a_refused_case_back_into_the_line(database: Database, database_url: str) -> None:
    case_id = refused(database)
    worker = Database(as_role(database_url, "bonafide_worker"), pool_size=1)

    with worker.transaction() as session:
        assert retry_case(session, case_id, actor="operator")

    worker.close()


def test_a_database_that_does_not_answer_is_unavailable() -> None:
    nowhere = Database("postgresql://bonafide@127.0.0.1:9/none", connect_timeout=1)

    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        nowhere.ping()


def test_a_look_outside_a_transaction_leaves_none_behind(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    now = text("SELECT now()")  # when the transaction began

    with database.reading() as session:
        looks = [session.scalar(now), session.scalar(now)]
    with database.transaction() as session:
        same = [session.scalar(now), session.scalar(now)]
    database.close()

    assert looks[0] != looks[1]
    assert same[0] == same[1]
