"""What an admin types on the server, against a real Postgres."""

import codecs
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner, Result

from moderation.accounts.accounts import Accounts
from moderation.cli.main import app
from moderation.database.connection import Database
from moderation.errors import (
    EndpointRefused,
    NotAllowed,
    PersonExists,
    PersonNotFound,
    SetupProblem,
    SignInRefused,
)
from moderation.people import Role
from moderation.settings import Settings
from moderation.settings import settings as settings_of_the_process
from tests.integration.conftest import ready

Command = Callable[..., Result]


@pytest.fixture
def bonafide(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("BONAFIDE_DATABASE_URL", database_url)
    settings_of_the_process.cache_clear()

    def run(*words: str, typed: str = "") -> Result:
        result = CliRunner().invoke(app, list(words), input=typed)
        # The command sent the logs of its process to a standard error that is gone now.
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
        return result

    yield run
    settings_of_the_process.cache_clear()


@pytest.fixture
def accounts(database: Database, settings: Settings) -> Accounts:
    return Accounts(database, settings)


def test_somebody_is_added_with_a_password_that_works(bonafide: Command, accounts: Accounts) -> None:
    added = bonafide("users", "add", "ada@example.org", "Ada", "--role", "lead", "--json")

    shown = json.loads(added.stdout)
    signed_in = accounts.sign_in("ada@example.org", shown["password"], address="192.0.2.1")
    assert (shown["role"], signed_in.person.role) == ("lead", "lead")


def test_a_password_may_come_from_standard_input(bonafide: Command, accounts: Accounts) -> None:
    added = bonafide("users", "add", "ada@example.org", "Ada", "--password-stdin", typed="a phrase of mine\n")

    assert added.exit_code == 0
    assert "a phrase of mine" not in added.output
    assert accounts.sign_in("ada@example.org", "a phrase of mine", address="192.0.2.1")


def test_the_list_shows_no_password_and_disabling_shuts_out(bonafide: Command, accounts: Accounts) -> None:
    password = json.loads(bonafide("users", "add", "ada@example.org", "Ada", "--json").stdout)["password"]
    bonafide("users", "add", "grace@example.org", "Grace", "--role", "admin")

    assert bonafide("users", "disable", "ADA@example.org").exit_code == 0
    listed = [json.loads(line) for line in bonafide("users", "list", "--json").stdout.splitlines()]

    assert [(one["name"], one["disabled_at"] is None) for one in listed] == [("Ada", False), ("Grace", True)]
    assert "password" not in listed[0]
    with pytest.raises(SignInRefused):
        accounts.sign_in("ada@example.org", password, address="192.0.2.1")


def test_somebody_who_was_shut_out_is_let_in_again_and_given_a_role(
    bonafide: Command, accounts: Accounts
) -> None:
    accounts.add_person("root@example.org", "Root", Role.ADMIN, None)
    accounts.add_person("ada@example.org", "Ada", Role.REVIEWER, "a phrase of mine")
    bonafide("users", "disable", "ada@example.org")

    enabled = bonafide("users", "enable", "ada@example.org")
    promoted = bonafide("users", "set-role", "ada@example.org", "lead")

    assert (enabled.exit_code, promoted.exit_code) == (0, 0)
    signed_in = accounts.sign_in("ada@example.org", "a phrase of mine", address="192.0.2.1")
    assert signed_in.person.role is Role.LEAD


def test_somebody_is_left_who_may_manage_people(bonafide: Command, accounts: Accounts) -> None:
    accounts.add_person("root@example.org", "Root", Role.ADMIN, None)

    demoted = bonafide("users", "set-role", "root@example.org", "reviewer")

    assert isinstance(demoted.exception, NotAllowed)
    assert accounts.find_person("root@example.org").role is Role.ADMIN


def test_nobody_of_this_email_is_enabled_or_given_a_role(bonafide: Command) -> None:
    for words in (["enable", "nobody@example.org"], ["set-role", "nobody@example.org", "lead"]):
        assert isinstance(bonafide("users", *words).exception, PersonNotFound)


def test_a_second_person_of_the_same_email_is_refused(bonafide: Command) -> None:
    bonafide("users", "add", "ada@example.org", "Ada")

    assert isinstance(bonafide("users", "add", "Ada@example.org", "Ada").exception, PersonExists)


def test_a_password_is_reset(bonafide: Command, accounts: Accounts) -> None:
    bonafide("users", "add", "ada@example.org", "Ada", "--no-password")

    password = bonafide("users", "reset-password", "ada@example.org").stdout.strip()

    assert accounts.sign_in("ada@example.org", password, address="192.0.2.1")


def test_webhooks_are_added_rotated_listed_and_removed(bonafide: Command) -> None:
    added = json.loads(
        bonafide("webhooks", "add", "https://hooks.example.org/", "--kind", "case.decided", "--json").stdout
    )
    rotated = bonafide("webhooks", "rotate", added["id"]).stdout.strip()
    (listed,) = (json.loads(line) for line in bonafide("webhooks", "list", "--json").stdout.splitlines())
    log = bonafide("webhooks", "log", added["id"], "--json")
    removed = bonafide("webhooks", "remove", added["id"])

    assert added["secret"].startswith("whsec_")
    assert rotated != added["secret"]
    assert (listed["kinds"], listed["secrets"]) == (["case.decided"], 2)
    assert (log.exit_code, log.stdout) == (0, "")
    assert removed.exit_code == 0
    assert bonafide("webhooks", "list", "--json").stdout == ""


def test_people_webhooks_and_deliveries_are_listed_for_people_too(
    bonafide: Command, database: Database
) -> None:
    bonafide("users", "add", "ada@example.org", "Ada", "--no-password")
    endpoint = json.loads(bonafide("webhooks", "add", "https://hooks.example.org/", "--json").stdout)["id"]
    case = ready(database)

    people = bonafide("users", "list").stdout
    endpoints = bonafide("webhooks", "list").stdout
    deliveries = bonafide("webhooks", "log", endpoint).stdout

    assert "ada@example.org" in people
    assert "https://hooks.example.org/" in endpoints
    assert str(case) in deliveries


def test_a_webhook_added_twice_is_one_and_no_secret_is_shown_again(bonafide: Command) -> None:
    first = bonafide("webhooks", "add", "https://hooks.example.org/")
    again = bonafide("webhooks", "add", "https://hooks.example.org/")

    assert first.stdout.startswith("whsec_")
    assert (again.exit_code, again.stdout) == (0, "")
    assert "rotate" in again.stderr
    assert len(bonafide("webhooks", "list", "--json").stdout.splitlines()) == 1


def test_a_webhook_to_our_own_network_is_refused(bonafide: Command) -> None:
    assert isinstance(bonafide("webhooks", "add", "https://10.0.0.1/").exception, EndpointRefused)


def test_data_goes_to_a_file_or_to_standard_output(
    bonafide: Command, database: Database, tmp_path: Path
) -> None:
    case_id = ready(database)
    file = tmp_path / "analyses.csv"

    to_file = bonafide("export", "analyses", "--format", "csv", "--out", str(file))
    to_output = bonafide("export", "analyses", "--since", "2020-01-01")

    assert to_file.exit_code == 0
    assert str(case_id) in file.read_text()
    assert json.loads(to_output.stdout)["case"] == str(case_id)
    assert bonafide("export", "analyses", "--until", "2020-01-01").stdout == ""
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("options", "marked"),
    [
        pytest.param(["--out", "FILE"], True, id="a file"),
        pytest.param(["--out", "FILE", "--no-bom"], False, id="a file without"),
        pytest.param([], False, id="standard output"),
        pytest.param(["--bom"], True, id="standard output with"),
    ],
)
def test_csv_begins_with_a_mark_where_excel_may_open_it(
    bonafide: Command, database: Database, tmp_path: Path, options: list[str], marked: bool
) -> None:
    ready(database)
    file = tmp_path / "analyses.csv"

    ended = bonafide(
        "export", "analyses", "--format", "csv", *(str(file) if o == "FILE" else o for o in options)
    )

    written = file.read_bytes() if file.exists() else ended.stdout_bytes
    assert written.removeprefix(codecs.BOM_UTF8).startswith(b"analysis,case,")
    assert written.startswith(codecs.BOM_UTF8) is marked


def test_a_mark_is_refused_where_there_is_none(bonafide: Command) -> None:
    assert bonafide("export", "analyses", "--bom").exit_code == 2


@pytest.mark.parametrize(
    "place", ["missing/rows.csv", "", "file/rows.csv"], ids=["missing", "a folder", "in a file"]
)
def test_an_export_that_cannot_be_written_is_refused_and_leaves_nothing(
    bonafide: Command, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()

    ended = bonafide("export", "decisions", "--out", str(tmp_path / place))

    assert isinstance(ended.exception, SetupProblem)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


def test_an_export_that_fails_leaves_the_file_as_it_was(
    bonafide: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_text("those of before")

    ended = bonafide("export", "decisions", "--format", "parquet", "--out", str(tmp_path / "rows.parquet"))

    assert isinstance(ended.exception, SetupProblem)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["those of before"]
