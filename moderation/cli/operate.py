"""What an operator does: run the processes, migrate the schema, manage keys and dead letters."""

import json
import os
import re
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from pydantic import TypeAdapter, ValidationError
from rich.text import Text
from sqlalchemy.orm import Session

from moderation.accounts.keys import SCOPES, USUAL_SCOPES, add_key, list_keys, revoke_key
from moderation.archive.archived import archive_of
from moderation.archive.archiver import Archives
from moderation.archive.erasure import erase_case, not_erased
from moderation.cases import Case, CaseState
from moderation.cli.doctor import Finding, examine
from moderation.cli.printing import AsJson, complain, fail, print_object, print_rows
from moderation.database import schema
from moderation.database.cases import find_case, require_case
from moderation.database.connection import Database
from moderation.database.moves import retry_case, retry_cases
from moderation.database.operations import (
    DeadLetter,
    dismiss_dead_letter,
    find_dead_letter,
    list_dead_letters,
    mark_replayed,
)
from moderation.database.queue import refused_since, unclaimed
from moderation.dispatch import (
    ANALYZE_CASE,
    ANSWER_QUESTION,
    QUESTION_QUEUE,
    RERUN_CASE,
    RERUN_QUEUE,
    Publisher,
    WorkKind,
)
from moderation.errors import (
    ArchiveBroken,
    CaseNotFound,
    ImageRejected,
    SetupProblem,
    TransitionRefused,
    Unavailable,
)
from moderation.intake import take_back
from moderation.local import sweeper_command, web_command, worker_command
from moderation.settings import settings
from moderation.storage import Storage
from moderation.wire import Name, what_is_wrong

dead_letters = typer.Typer(
    help="Messages that no worker could process, kept for an engineer.", no_args_is_help=True
)
keys = typer.Typer(help="API keys of platforms.", no_args_is_help=True)


#: What messages of these tasks are about, instead of a case.
_NO_CASE = {ANSWER_QUESTION: "a question", RERUN_CASE: "a rerun"}
#: The only task whose messages are on the queue.
_TASK_OF = {QUESTION_QUEUE: ANSWER_QUESTION, RERUN_QUEUE: RERUN_CASE}

#: Cases that one transaction retries.
_RETRIED_AT_ONCE = 500


def moment(meaning: str, *, usual: str | None = None) -> Any:
    """The option of a moment: a day, or a day and a time. `usual` says in words what happens without it."""
    forms = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
    return typer.Option(help=meaning, formats=forms, show_default=usual or True)


def in_utc(at: datetime | None) -> datetime | None:
    """A moment without a time zone is in UTC."""
    return None if at is None else at.replace(tzinfo=at.tzinfo or UTC)


def open_database(*, answer_seconds: float | None = None) -> Database:
    return Database(settings().database_url.get_secret_value(), pool_size=1, answer_seconds=answer_seconds)


@contextmanager
def open_session() -> Generator[Session]:
    """One transaction, on a database that is opened for it."""
    with closing(open_database()) as database, database.transaction() as session:
        yield session


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run the API."""
    _become(web_command(port, host=host))


def worker(
    name: Annotated[str, typer.Option(help="The worker's name, unique on this host.")] = "worker",
) -> None:
    """Run one worker process: one per GPU, or one per machine without any."""
    _become(worker_command(name=name))


def sweeper() -> None:
    """Run a sweeper. Several may run; only one works at a time."""
    _become(sweeper_command())


def _become(command: list[str]) -> None:
    settings()  # settings that cannot be used are refused here, in a sentence
    # Not a child process: signals, exit code and process id stay those of the program.
    os.execv(command[0], command)


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if a migration is missing.")
    ] = False,
) -> None:
    """Migrate the database schema and its roles to this release. A later release's schema stays as it is."""
    with closing(open_database()) as database:
        database.ping()
        later = schema.is_later(database)
        if check:
            current = schema.is_current(database) and not later
            typer.echo(
                "the schema is current"
                if current
                else "migrations are to be run, or a later release ran its own"
            )
            raise typer.Exit(0 if current else 1)
        if later:
            typer.echo("the schema is that of a later release: nothing is changed")
            return
        typer.echo(f"the schema is at {schema.upgrade(database)}")
        missing = schema.missing_roles(database)
    if missing:
        complain(
            f"no role has its rights: {', '.join(missing)} are missing, and this user may not create roles. "
            "Let an administrator run roles.sql of moderation/database, then run this again"
        )


def doctor(json_: AsJson = False) -> None:
    """Find out what is wrong: check every part and say what to change. It ends with 1 if something must change.

    What could not be checked says why. In --json its `ok` is null.
    """
    findings = examine(settings())
    print_rows(findings, {"part": "part", "": _mark, "what was found": "words"}, as_json=json_, wraps=True)
    if any(finding.ok is False for finding in findings):
        raise typer.Exit(1)


def _mark(finding: Finding) -> Text:
    if finding.ok is None:
        return Text("not checked", style="yellow")
    return Text("ok", style="green") if finding.ok else Text("mend", style="red")


def _unavailable(kind: type[Unavailable] = Unavailable) -> list[type[Unavailable]]:
    """The kinds below this one: a case may have been given up for any."""
    return [each for child in kind.__subclasses__() for each in (child, *_unavailable(child))]


def _refusal(given: str | None) -> str | None:
    """The same code, if a case can be refused with it."""
    kinds = (*ImageRejected.__subclasses__(), *_unavailable())
    known = ["attempts_exhausted", "out_of_memory", *(kind.code for kind in kinds)]
    if given not in (None, *known):
        raise typer.BadParameter(f"{given!r} is no refusal: it is one of {', '.join(sorted(known))}")
    return given


def retry(
    case: Annotated[UUID | None, typer.Argument(help="A case that is ready without a verdict.")] = None,
    refusal: Annotated[
        str | None,
        typer.Option(
            help="All cases with this refusal instead, unless a reviewer has them open.", callback=_refusal
        ),
    ] = None,
    since: Annotated[datetime | None, moment("With --refusal: ready at or after this time, UTC.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --refusal: only count the cases.")] = False,
) -> None:
    """Analyse a case without a verdict again, or all with one refusal, for example after an outage.

    If it is stopped, run it again for the rest.
    """
    at = in_utc(since)
    match case, refusal, at:
        case UUID(), None, None if not dry_run:
            _retry_one(case)
        case None, str(), datetime():
            _retry_all(refusal, at, dry_run=dry_run)
        case _:
            raise typer.BadParameter("name one case, or --refusal and --since", param_hint="CASE")


def _retry_all(refusal: str, since: datetime, *, dry_run: bool) -> None:
    done = 0
    with closing(open_database()) as database:
        with database.transaction() as session:
            found = refused_since(session, refusal, since)
        if dry_run:
            typer.echo(f"{len(found):,} cases fit; none is retried")
            return
        for first in range(0, len(found), _RETRIED_AT_ONCE):
            with database.transaction() as session:
                page = found[first : first + _RETRIED_AT_ONCE]
                done += retry_cases(session, page, unclaimed(), actor="operator")
    typer.echo(f"{done:,} cases are waiting again")


def _retry_one(case: UUID) -> None:
    with open_session() as session:
        found = require_case(session, case)
        done = retry_case(session, case, actor="operator")
    if not done:
        fail(f"case {case} is not ready without a verdict: {_instead(found)}")
    typer.echo(f"case {case} is waiting again")


def _instead(case: Case) -> str:
    return "it has one" if case.state is CaseState.READY else f"it is {case.state}"


def erase(
    case: Annotated[
        UUID | None,
        typer.Argument(help="A case that was decided or withdrawn.", show_default=False),
    ] = None,
    redo: Annotated[
        Path | None,
        typer.Option(
            "--from", help="After a restore: redo what this file of `bonafide export erasures` says (jsonl)."
        ),
    ] = None,
) -> None:
    """Erase the texts of an ended case and where its image is, for ever. The log of events stays whole.

    An archived case is removed from its archive first. The second call does nothing.
    """
    if (case is None) == (redo is None):
        raise typer.BadParameter("name one case, or a file with --from", param_hint="CASE")
    with closing(open_database()) as database:
        if redo is not None:
            _redo(database, _read_endings(redo))
        elif case is not None:
            _erase(database, case)
            typer.echo(f"case {case} is erased")


def _erase(database: Database, case: UUID) -> None:
    with database.transaction() as session:
        found = require_case(session, case)
        archived = archive_of(session, case) is not None
        if not archived:
            done = erase_case(session, case, actor="operator", keep_hash=settings().keep_hashes)
            if not done and found.erased_at is None:
                raise not_erased(found)
    if archived:
        Archives(database, Storage(settings()), settings()).erase(case, actor="operator")


@dataclass(frozen=True)
class _Ending:
    """A row of `bonafide export erasures`."""

    case: UUID
    withdrawn_at: datetime | None
    erased_at: datetime | None


def _read_endings(path: Path) -> list[_Ending]:
    """Raise SetupProblem."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupProblem(f"{path} cannot be read: {error}") from error
    row = TypeAdapter(_Ending)
    endings: list[_Ending] = []
    for number, line in enumerate(lines, start=1):
        try:
            endings.append(row.validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            what = " ".join([*map(str, first["loc"]), what_is_wrong(first)])
            raise SetupProblem(
                f"{path}, line {number}: {what}. Give a file that `bonafide export erasures` wrote, as jsonl"
            ) from error
    return endings


def _redo(database: Database, endings: Sequence[_Ending]) -> None:
    """End these cases again; exit with 1 unless all have ended. What a restored database does not know is counted."""
    ended, left = 0, 0
    for ending in endings:
        try:
            ended += _end_again(database, ending)
        except (TransitionRefused, ArchiveBroken, CaseNotFound) as error:
            left += 1
            complain(f"case {ending.case}: {error}")
    unknown = len(endings) - ended - left
    typer.echo(f"{ended} of {len(endings)} cases are erased or withdrawn; {unknown} are not in this database")
    if left:
        fail(f"{left} of {len(endings)} cases are left: mend what is said of them, then run this again")


def _end_again(database: Database, ending: _Ending) -> bool:
    """False: there is no such case, because it was opened after the backup."""
    with database.transaction() as session:
        found = find_case(session, ending.case)
        if found is None:
            return False
        if found.erased_at is not None:
            return True
        # An erased case had ended. If the restore undid its decision, nobody may look at it again: it is taken back.
        if ending.erased_at is None or found.state not in (CaseState.DECIDED, CaseState.WITHDRAWN):
            take_back(session, ending.case, actor="operator")
    if ending.erased_at is not None:
        _erase(database, ending.case)
    return True


@dead_letters.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Also those that were dismissed.")] = False,
    json_: AsJson = False,
) -> None:
    """List dead letters, newest first."""
    with open_session() as session:
        letters = list_dead_letters(session, dismissed=every)
    print_rows(
        letters,
        {
            "id": "id",
            "since": lambda letter: f"{letter.created_at:%Y-%m-%d %H:%M:%S}",
            "error": "error",
            "body": lambda letter: letter.body[:80],
        },
        as_json=json_,
    )


@dead_letters.command()
def replay(letter: Annotated[UUID, typer.Argument(help="A dead letter that names a case.")]) -> None:
    """Publish the case that a dead letter names again."""
    publisher = Publisher(settings().broker_url.get_secret_value(), at_most=settings().messages_at_most)
    with open_session() as session:
        found = find_dead_letter(session, letter)
        case = None if found is None else _named_case(found.body)
        against = _against(session, found, case)
    if case is None or against is not None:
        fail(str(against))
    if not publisher.publish(WorkKind.ANALYSIS, [case]):
        fail("the broker does not answer")
    with open_session() as session:
        mark_replayed(session, letter)
    typer.echo(f"published case {case}")


@dead_letters.command()
def dismiss(
    letter: Annotated[UUID, typer.Argument(help="A dead letter that nobody needs any more.")],
) -> None:
    """Take a dead letter off the list and out of the alert. It stays in the database: `list --all` shows it."""
    with open_session() as session:
        done = dismiss_dead_letter(session, letter)
    if not done:
        fail(f"no dead letter on the list has the id {letter}")
    typer.echo(f"dismissed {letter}")


def _against(session: Session, letter: DeadLetter | None, case: UUID | None) -> str | None:
    """Why the letter's case is not published, and what happens instead. None: it may be published."""
    if letter is None:
        return "there is no such dead letter"
    task = _named_task(letter)
    if task in _NO_CASE:
        return f"this dead letter is about {_NO_CASE[task]}: the sweeper publishes it again while it waits"
    if task not in (None, ANALYZE_CASE):
        return (
            f"this dead letter is of the task {task!r} and about no case: the sweeper publishes all that wait"
        )
    if case is None:
        return "this dead letter names no case: nothing can be published"
    if find_case(session, case) is None:
        return f"there is no case {case}: nothing is published, and what waits the sweeper publishes"
    return None


def _named_task(letter: DeadLetter) -> str | None:
    """The task that the message names, or that its queue is for. None: neither says."""
    try:
        task = json.loads(letter.body)["headers"]["task"]
    except (ValueError, TypeError, LookupError, RecursionError):
        task = None
    return task if isinstance(task, str) else _TASK_OF.get(letter.queue)


def _named_case(body: str) -> UUID | None:
    """The first case's id in the message. None: there is none."""
    for match in re.finditer(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", body):
        case = UUID(match.group())
        if case.version == 7:  # a case's id; a message's own id has version 4
            return case
    return None


def _name(given: str) -> str:
    """The same name, if the API would take it as a source."""
    try:
        return TypeAdapter[str](Name).validate_python(given)
    except ValidationError as error:
        raise typer.BadParameter(f"the name {what_is_wrong(error.errors()[0])}") from error


@keys.command()
def add(
    name: Annotated[
        str, typer.Argument(help="The key's owner; the default source of its cases.", callback=_name)
    ],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may do: {', '.join(SCOPES)}.", show_default=", ".join(USUAL_SCOPES)),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Make an API key and show it once."""
    unknown = set(scope or ()) - set(SCOPES)
    if unknown:
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--scope")
    with open_session() as session:
        secret = add_key(session, name, tuple(scope or USUAL_SCOPES))
    print_object({"name": name, "key": secret}, secret, as_json=json_)


@keys.command("list")
def list_keys_(json_: AsJson = False) -> None:
    """List the keys: owner, scopes, when made and last used."""
    with open_session() as session:
        found = list_keys(session)
    print_rows(
        found,
        {
            "prefix": "prefix",
            "name": "name",
            "scopes": "scopes",
            "made": "created_at",
            "last used": "last_used_at",
            "revoked": "revoked_at",
        },
        as_json=json_,
    )


@keys.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix: the part between the underscores.")],
) -> None:
    """Revoke a key for ever. Within ten seconds no process accepts it."""
    with open_session() as session:
        done = revoke_key(session, prefix)
    if not done:
        fail(f"no open key has the prefix {prefix}")
    typer.echo(f"revoked {prefix}")
