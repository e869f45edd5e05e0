"""Commands on a database that is away, not migrated or not in UTF-8: one sentence, once, and no traceback."""

import json
import logging
import secrets
import sys
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import structlog
from sqlalchemy import text

from moderation.cli.main import main
from moderation.database.connection import Database
from moderation.errors import DatabaseNotUtf8
from moderation.local import free_port
from moderation.settings import settings as settings_of_the_process
from tests.conftest import Addresses
from tests.integration.conftest import accepted

Said = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def bonafide(
    servers: Addresses, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Said]:
    """Runs a command on the database of an address; how it ended, and the lines that it said."""
    for name, value in servers.settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "250")

    def run(address: str, *words: str) -> tuple[int, list[str]]:
        monkeypatch.setenv("BONAFIDE_DATABASE_URL", address)
        monkeypatch.setattr(sys, "argv", ["bonafide", *words])
        settings_of_the_process.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
        captured = capfd.readouterr()
        return int(ended.value.code or 0), [
            line for line in (captured.out + captured.err).splitlines() if line.strip()
        ]

    yield run
    settings_of_the_process.cache_clear()


@pytest.fixture(scope="module")
def a_database(servers: Addresses) -> Iterator[Callable[[str], str]]:
    """The address of an empty database in an encoding. It is one for all tests: nothing here can write to it."""
    made: dict[str, str] = {}

    def find(encoding: str) -> str:
        if encoding not in made:
            name = made[encoding] = f"bonafide_unready_{secrets.token_hex(4)}"
            _run(servers, f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        return urlunsplit(urlsplit(servers.database_url)._replace(path=f"/{made[encoding]}"))

    yield find
    for name in made.values():
        _run(servers, f"DROP DATABASE {name} WITH (FORCE)")


def _run(servers: Addresses, statement: str) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]


#: Every command that looks into the database, or changes what is there.
COMMANDS = [
    ("keys", "list"),
    ("keys", "add", "a-platform"),
    ("users", "list"),
    ("users", "disable", "ada@example.org"),
    ("bundles", "list"),
    ("bundles", "log"),
    ("bundles", "rollback"),
    ("webhooks", "list"),
    ("webhooks", "log"),
    ("dead-letters", "list"),
    ("retry", "019aa1b2-0000-7000-8000-000000000000"),
    ("erase", "019aa1b2-0000-7000-8000-000000000000"),
    ("export", "decisions"),
    ("archive", "--decided-before", "400d", "--to", "old/cases", "--dry-run"),
]


@pytest.mark.parametrize("words", [*COMMANDS, ("migrate",)], ids=" ".join)
@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_is_not_in_utf_8_is_named(
    bonafide: Said, a_database: Callable[[str], str], words: tuple[str, ...], encoding: str
) -> None:
    ended, said = bonafide(a_database(encoding), *words)

    assert ended == 1
    assert len(said) == 1
    assert f"is in {encoding} and must be in UTF8" in said[0]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_database_that_is_not_migrated_says_what_to_run(
    bonafide: Said, a_database: Callable[[str], str], words: tuple[str, ...]
) -> None:
    assert bonafide(a_database("UTF8"), *words) == (
        2,
        ["bonafide: the database schema is not that of this release: run `bonafide migrate`"],
    )


@pytest.mark.parametrize("words", [*COMMANDS, ("migrate",)], ids=" ".join)
def test_a_database_that_is_away_is_said_to_be_away(bonafide: Said, words: tuple[str, ...]) -> None:
    ended, said = bonafide(f"postgresql://u:hunter@127.0.0.1:{free_port()}/d", *words)

    assert ended == 1
    assert len(said) == 1
    assert said[0].startswith("bonafide: Postgres does not answer: connection")


def _findings(lines: list[str]) -> dict[str, dict[str, object]]:
    return {one["part"]: one for one in map(json.loads, lines)}


@pytest.mark.parametrize(
    ("state", "part", "words"),
    [
        pytest.param("away", "database", "Postgres does not answer", id="away"),
        pytest.param("UTF8", "schema", "bonafide migrate", id="not migrated"),
        pytest.param("SQL_ASCII", "database", "is in SQL_ASCII", id="without an encoding"),
        pytest.param("LATIN1", "database", "is in LATIN1", id="in another encoding"),
    ],
)
def test_doctor_says_once_what_is_wrong_with_the_database(
    bonafide: Said, a_database: Callable[[str], str], state: str, part: str, words: str
) -> None:
    address = f"postgresql://127.0.0.1:{free_port()}/d" if state == "away" else a_database(state)

    ended, said = bonafide(address, "doctor", "--json")

    findings = _findings(said)
    assert ended == 1
    assert not findings[part]["ok"]
    assert sum(words in line for line in said) == 1
    assert [name for name, one in findings.items() if one["ok"] is False] == [part]
    assert (findings["sweeper"]["ok"], findings["sweeper"]["looked_at"]) == (None, False)


def test_a_bug_is_not_taken_for_a_schema_that_is_behind(
    bonafide: Said, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import ProgrammingError

    from moderation.cli import operate

    def broken(_session: object) -> None:
        with database.transaction() as session:
            session.execute(text("SELECT wrong FROM cases"))

    monkeypatch.setattr(operate, "list_keys", broken)

    with pytest.raises(ProgrammingError, match="wrong"):
        bonafide(database_url, "keys", "list")


def test_no_case_is_accepted_by_a_database_that_would_spoil_its_words(
    a_database: Callable[[str], str],
) -> None:
    database = Database(a_database("SQL_ASCII"), pool_size=1)

    with pytest.raises(DatabaseNotUtf8):
        accepted(database, reason="dürfte gefälscht sein")
    database.close()


def test_texts_come_as_unicode_whatever_the_environment_says(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = Database(database_url, pool_size=1)

    with database.transaction() as session:
        assert session.scalar(text("SELECT 'смотри ✓'")) == "смотри ✓"
    database.close()
