"""What an operator types on the server, against a real Postgres and a real Redis."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from typer.testing import CliRunner, Result

from moderation.accounts.keys import add_key, list_keys
from moderation.cases import CaseState, Refusal
from moderation.cli.main import app, main
from moderation.database.connection import Database
from moderation.database.health import read_health
from moderation.database.ids import new_id
from moderation.database.moves import withdraw_case
from moderation.database.operations import insert_dead_letter, list_dead_letters
from moderation.database.review import lock_case, put_claim
from moderation.decisions import Outcome
from moderation.dispatch import ANALYSIS_QUEUE, ANALYZE_CASE, ANSWER_QUESTION, RERUN_CASE, Publisher
from moderation.errors import CaseNotFound, SetupProblem, TransitionRefused
from moderation.local import as_role
from moderation.people import Person
from moderation.review import Review
from moderation.settings import Settings
from moderation.settings import settings as settings_of_the_process
from tests.integration.conftest import accepted, enrolled, let_time_pass, ready, refused, stored
from tests.integration.deciding import a_review, decide

Command = Callable[..., Result]

#: Rich takes the first for the end of something and the second for a style.
MARKUP = "[/x] of [null] and [bold]"


@pytest.fixture
def bonafide(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    for name in ("database_url", "broker_url"):
        secret = getattr(settings, name)
        assert isinstance(secret, SecretStr)
        monkeypatch.setenv(f"BONAFIDE_{name.upper()}", secret.get_secret_value())
    settings_of_the_process.cache_clear()
    yield lambda *words: CliRunner().invoke(app, list(words), env={"COLUMNS": "250"})
    settings_of_the_process.cache_clear()


@pytest.fixture
def review(database: Database, settings: Settings) -> Review:
    return a_review(database, settings)


@pytest.fixture
def publisher(settings: Settings) -> Publisher:
    return Publisher(settings.broker_url.get_secret_value(), at_most=10)


def kept(database: Database, body: str, *, queue: str = ANALYSIS_QUEUE, error: str = "unreadable") -> UUID:
    """A dead letter's id."""
    with database.transaction() as session:
        insert_dead_letter(session, queue=queue, body=body, error=error)
        return list_dead_letters(session, limit=1)[0].id


def replayed(database: Database) -> bool:
    with database.transaction() as session:
        return list_dead_letters(session)[0].replayed_at is not None


def a_message(task: str, of: UUID) -> str:
    """As the worker keeps one."""
    headers = {"task": task, "id": "0b5a2b4e-90f1-4dd0-9b8c-6d1f6ae0a3d2", "argsrepr": f"['{of}']"}
    return json.dumps({"headers": headers, "content_type": "application/json", "body": ""})


# --- what is printed is data, whatever it looks like


def test_a_dead_letter_is_shown_as_it_came(bonafide: Command, database: Database) -> None:
    kept(database, MARKUP, error=f"unknown task: {MARKUP}")

    listed = bonafide("dead-letters", "list")

    assert listed.exit_code == 0, listed.exception
    assert listed.stdout.count(MARKUP) == 2


def test_a_key_and_a_finding_are_shown_as_they_are(
    bonafide: Command, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONAFIDE_BUNDLE", f"/bundles/{MARKUP}")
    with database.transaction() as session:
        add_key(session, MARKUP)

    assert MARKUP in bonafide("keys", "list").stdout
    assert MARKUP in bonafide("doctor").stdout


def test_what_a_user_may_not_read_is_shown_as_not_checked(
    bonafide: Command, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONAFIDE_DATABASE_URL", as_role(database_url, "bonafide_worker"))

    (line,) = (line for line in bonafide("doctor").stdout.splitlines() if " keys " in line)

    assert "not checked" in line
    assert "this role may not read it" in line


def test_an_error_is_said_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BONAFIDE_API_KEY_FILE", f"/nowhere/{MARKUP}")
    monkeypatch.setattr("sys.argv", ["bonafide", "keys", "list"])
    settings_of_the_process.cache_clear()

    with pytest.raises(SystemExit) as ended:
        main()

    settings_of_the_process.cache_clear()
    assert ended.value.code == 2
    assert f"/nowhere/{MARKUP}" in capsys.readouterr().err


# --- dead letters that name something


def test_a_letter_of_a_case_publishes_it(bonafide: Command, database: Database, publisher: Publisher) -> None:
    case = accepted(database)
    letter = kept(database, a_message(ANALYZE_CASE, case))

    ended = bonafide("dead-letters", "replay", str(letter))

    assert (ended.exit_code, f"published case {case}" in ended.stdout) == (0, True)
    assert (publisher.depth(), replayed(database)) == (1, True)


@pytest.mark.parametrize(
    ("task", "queue", "words"),
    [
        pytest.param(ANSWER_QUESTION, "analysis", "about a question", id="a question"),
        pytest.param(RERUN_CASE, "analysis", "about a rerun", id="a rerun"),
        pytest.param(None, "questions", "about a question", id="arguments on the queue of questions"),
        pytest.param(None, "reruns", "about a rerun", id="arguments on the queue of reruns"),
        pytest.param("else", "analysis", "of the task 'else'", id="a task that is none of ours"),
        pytest.param(ANALYZE_CASE, "analysis", "there is no case", id="a case that is not there"),
        pytest.param(None, "analysis", "there is no case", id="an id of something else"),
    ],
)
def test_a_letter_that_names_no_case_is_not_replayed_and_says_why(
    bonafide: Command, database: Database, publisher: Publisher, task: str | None, queue: str, words: str
) -> None:
    other = new_id()
    body = repr(((str(other), "more"), {})) if task is None else a_message(task, other)
    letter = kept(database, body, queue=queue)

    ended = bonafide("dead-letters", "replay", str(letter))

    assert (ended.exit_code, words in ended.stderr) == (1, True), ended.output
    assert (publisher.depth(), replayed(database)) == (0, False)


def test_a_letter_that_names_nothing_or_is_not_there_says_so(bonafide: Command, database: Database) -> None:
    letter = kept(database, "[" * 50_000)

    assert "names no case" in bonafide("dead-letters", "replay", str(letter)).stderr
    assert "no such dead letter" in bonafide("dead-letters", "replay", str(new_id())).stderr


def test_a_dismissed_letter_leaves_the_list_and_the_alert_and_is_kept(
    bonafide: Command, database: Database
) -> None:
    left, gone = kept(database, "looked at later"), kept(database, "looked at")

    ended, again = (bonafide("dead-letters", "dismiss", str(gone)) for _ in range(2))

    assert (ended.exit_code, ended.stdout) == (0, f"dismissed {gone}\n"), ended.output
    assert (again.exit_code, str(gone) in again.stderr) == (1, True)
    listed, every = (
        bonafide("dead-letters", "list", "--json", *more).stdout.splitlines() for more in ((), ("--all",))
    )
    assert [json.loads(line)["id"] for line in listed] == [str(left)]
    assert [json.loads(line)["id"] for line in every] == [str(gone), str(left)]
    assert json.loads(every[0])["dismissed_at"] is not None
    with database.transaction() as session:
        assert read_health(session).dead_letters == 1


# --- names of keys


@pytest.mark.parametrize(
    "name", ["", "two\nlines", "bell\x07", "x" * 201], ids=["empty", "lines", "control", "long"]
)
def test_a_key_has_a_name_that_may_be_a_source(bonafide: Command, database: Database, name: str) -> None:
    ended = bonafide("keys", "add", name)

    with database.transaction() as session:
        assert (ended.exit_code, list_keys(session)) == (2, [])


# --- cases that are not retried and not erased


@pytest.mark.parametrize("command", ["retry", "erase"])
def test_a_case_that_is_not_there_is_said_so(bonafide: Command, command: str) -> None:
    assert isinstance(bonafide(command, str(new_id())).exception, CaseNotFound)


@pytest.mark.parametrize("make_case", [accepted, ready], ids=["waiting", "ready with a verdict"])
def test_only_a_case_without_a_verdict_is_retried(
    bonafide: Command, database: Database, make_case: Callable[[Database], UUID]
) -> None:
    case = make_case(database)
    before = stored(database, case)

    ended = bonafide("retry", str(case))

    assert (ended.exit_code, stored(database, case)) == (1, before)


EXHAUSTED = Refusal("storage_unavailable", "This could not be analysed for long: storage does not answer.")


@pytest.fixture
def outage(database: Database) -> dict[str, UUID]:
    """Cases without a verdict; two of them fit `retry --refusal storage_unavailable --since 2026-11-28T14:00`."""
    names = ["first", "second", "before it", "in front of a reviewer"]
    cases = {name: refused(database, refusal=EXHAUSTED) for name in names}
    cases["of another kind"] = refused(database)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET ready_at = '2026-11-28 14:00Z'"))
        session.execute(
            text("UPDATE cases SET ready_at = '2026-11-28 13:59Z' WHERE id = :id"), {"id": cases["before it"]}
        )
        claimed = lock_case(session, cases["in front of a reviewer"])
        put_claim(session, claimed, enrolled(database).id, claim_seconds=600)
    return cases


RETRY_ALL = ("retry", "--refusal", "storage_unavailable", "--since", "2026-11-28T14:00")


def test_all_cases_of_an_outage_are_retried_at_once_with_a_workers_rights(
    bonafide: Command,
    database: Database,
    database_url: str,
    outage: dict[str, UUID],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BONAFIDE_DATABASE_URL", as_role(database_url, "bonafide_worker"))
    monkeypatch.setattr("moderation.cli.operate._RETRIED_AT_ONCE", 1)

    ended, again = bonafide(*RETRY_ALL), bonafide(*RETRY_ALL)

    assert (ended.exit_code, ended.stdout) == (0, "2 cases are waiting again\n"), ended.output
    assert again.stdout == "0 cases are waiting again\n"
    waiting = {name for name, case in outage.items() if stored(database, case).state is CaseState.WAITING}
    assert waiting == {"first", "second"}


def test_a_dry_run_only_counts(bonafide: Command, database: Database, outage: dict[str, UUID]) -> None:
    ended = bonafide(*RETRY_ALL, "--dry-run")

    assert (ended.exit_code, ended.stdout) == (0, "2 cases fit; none is retried\n")
    assert {stored(database, case).state for case in outage.values()} == {CaseState.READY}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param([], "name one case, or --refusal and --since", id="nothing"),
        pytest.param(["--refusal", "image_missing"], "--refusal and --since", id="since no time"),
        pytest.param(["--since", "2026-11-28"], "--refusal and --since", id="no refusal"),
        pytest.param([str(new_id()), *RETRY_ALL[1:]], "name one case, or", id="both"),
        pytest.param([str(new_id()), "--dry-run"], "name one case, or", id="a dry run of one"),
        pytest.param(["--refusal", "no_such", "--since", "2026-11-28"], "attempts_exhausted", id="no code"),
    ],
)
def test_retry_takes_one_case_or_one_refusal_since_a_time(words: list[str], said: str) -> None:
    ended = CliRunner().invoke(app, ["retry", *words], env={"COLUMNS": "250"})

    assert (ended.exit_code, said in ended.stderr) == (2, True), ended.output


def test_a_case_that_has_not_ended_is_not_erased(bonafide: Command, database: Database) -> None:
    ended = bonafide("erase", str(ready(database)))

    assert isinstance(ended.exception, TransitionRefused)


def test_erasing_again_does_nothing(bonafide: Command, database: Database) -> None:
    case = ready(database)
    with database.transaction() as session:
        withdraw_case(session, lock_case(session, case), actor="platform:test")

    first, second = bonafide("erase", str(case)), bonafide("erase", str(case))

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert stored(database, case).erased_at is not None


# --- after a restore


def _ended_before(tmp_path: Path, **cases: UUID) -> str:
    """A file of erasures: of a case by what it is called, `withdrawn…` or something else."""
    at = "2026-11-30T12:00:00+00:00"
    rows = [
        {"case": str(case), "withdrawn_at": at if "withdrawn" in name else None}
        | {"erased_at": None if name == "withdrawn" else at}
        for name, case in cases.items()
    ]
    (tmp_path / "erasures.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(tmp_path / "erasures.jsonl")


def test_what_a_restore_undid_is_erased_and_withdrawn_again(
    bonafide: Command, database: Database, tmp_path: Path, review: Review, ada: Person
) -> None:
    decided, undecided, waiting, taken = ready(database), ready(database), accepted(database), ready(database)
    decide(review, database, ada, decided, Outcome.BONA_FIDE)
    let_time_pass(database, 86_400)  # it cannot be undone any more
    file = _ended_before(
        tmp_path,
        decided=decided,
        undecided=undecided,
        withdrawn_erased=waiting,
        withdrawn=taken,
        new=new_id(),
    )

    first, second = bonafide("erase", "--from", file), bonafide("erase", "--from", file)

    said = "4 of 5 cases are erased or withdrawn; 1 are not in this database\n"
    assert [(ended.exit_code, ended.stdout) for ended in (first, second)] == [(0, said)] * 2
    ended = [stored(database, case) for case in (decided, undecided, waiting, taken)]
    assert [case.erased_at is not None for case in ended] == [True, True, True, False]
    assert [case.state for case in ended] == [CaseState.DECIDED, *[CaseState.WITHDRAWN] * 3]


def test_a_case_that_cannot_be_erased_yet_is_named_and_the_others_are(
    bonafide: Command, database: Database, tmp_path: Path, settings: Settings, ada: Person
) -> None:
    just_decided, other = ready(database), ready(database)
    review = a_review(database, settings, undo_seconds=600.0)
    decide(review, database, ada, just_decided, Outcome.BONA_FIDE)
    file = _ended_before(tmp_path, just_decided=just_decided, other=other)

    ended = bonafide("erase", "--from", file)

    assert (ended.exit_code, str(just_decided) in ended.stderr) == (1, True)
    assert stored(database, other).erased_at is not None


def test_an_export_of_erasures_has_what_ended_in_its_period_and_may_be_redone(
    bonafide: Command, database: Database, tmp_path: Path
) -> None:
    taken, erased, open_ = (ready(database) for _ in range(3))
    with database.transaction() as session:
        for case in (taken, erased):
            withdraw_case(session, lock_case(session, case), actor="platform:test")
    bonafide("erase", str(erased))
    file = str(tmp_path / "erasures.jsonl")

    none = bonafide("export", "erasures", "--until", "2020-01-01")
    bonafide("export", "erasures", "--since", "2020-01-01", "--out", file)
    again = bonafide("erase", "--from", file)

    assert none.stdout == ""
    rows = {row["case"]: row for row in map(json.loads, Path(file).read_text().splitlines())}
    assert rows.keys() == {str(taken), str(erased)}
    assert (rows[str(taken)]["erased_at"], rows[str(erased)]["erased_at"] is None) == (None, False)
    assert again.exit_code == 0
    assert stored(database, open_).state is CaseState.READY


@pytest.mark.parametrize(
    ("line", "says"),
    [("case,withdrawn_at,erased_at", "is not JSON"), ('{"case": "x"}', "case"), ("{}", "case")],
    ids=["CSV", "no id", "another object"],
)
def test_a_file_that_is_no_export_of_erasures_is_refused_by_its_line(
    bonafide: Command, tmp_path: Path, line: str, says: str
) -> None:
    file = tmp_path / "erasures"
    file.write_text(f'{{"case": "{new_id()}", "withdrawn_at": null, "erased_at": null}}\n{line}\n')

    ended = bonafide("erase", "--from", str(file))

    assert isinstance(ended.exception, SetupProblem)
    assert f"{file}, line 2: {says}" in str(ended.exception)


@pytest.mark.parametrize("words", [(), (str(new_id()), "--from", "file")], ids=["neither", "both"])
def test_erase_takes_a_case_or_a_file(bonafide: Command, words: tuple[str, ...]) -> None:
    assert bonafide("erase", *words).exit_code == 2


# --- usage errors


def test_a_list_that_is_neither_json_nor_named_a_table_is_refused_whole(
    bonafide: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONAFIDE_API_KEY", "bf_key")
    (tmp_path / "list.txt").write_text("image,external_id\ns3://flagged/a.jpg,photo-1\n")

    assert isinstance(bonafide("bulk", str(tmp_path / "list.txt")).exception, SetupProblem)


@pytest.mark.parametrize("named", ["API_KEY", "API_URL"])
def test_a_key_or_an_address_that_can_be_none_gets_a_sentence(
    bonafide: Command, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("BONAFIDE_API_KEY", "bf_key")
    monkeypatch.setenv(f"BONAFIDE_{named}", "nö")

    assert isinstance(bonafide("cases").exception, SetupProblem)


@pytest.mark.parametrize(
    "words",
    [
        ("users", "add", "ada@example.org", "Ada", "--role", "king"),
        ("export", "all"),
        ("export", "decisions", "--since", "noon"),
    ],
    ids=" ".join,
)
def test_a_value_that_is_none_is_refused_without_the_checkers_own_words(words: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(app, list(words), env={"COLUMNS": "250"})

    assert (ended.exit_code, words[-1] in ended.stderr, "Value error" in ended.stderr) == (2, True, False)


# --- ids that are none


@pytest.mark.parametrize(
    "words",
    [
        ("retry",),
        ("erase",),
        ("status",),
        ("dead-letters", "replay"),
        ("dead-letters", "dismiss"),
        ("archive", "restore"),
        ("webhooks", "log"),
        ("webhooks", "remove"),
        ("webhooks", "rotate"),
        ("webhooks", "resend"),
    ],
    ids=" ".join,
)
def test_what_is_no_id_is_a_usage_error(words: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(app, [*words, "not-an-id"])

    assert (ended.exit_code, "UUID" in ended.stderr) == (2, True)
