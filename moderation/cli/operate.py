"""What an operator does: run the parts, bring the schema up, look after keys and dead letters."""

import dataclasses
import json
import os
from collections.abc import Generator
from contextlib import closing, contextmanager
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from moderation.archive import Archives
from moderation.cli.doctor import examine
from moderation.cli.show import print_table
from moderation.database import schema
from moderation.database.archive import archive_of
from moderation.database.cases import find_case
from moderation.database.connection import Database
from moderation.database.erasure import erase_case
from moderation.database.keys import SCOPES, USUAL_SCOPES, add_key, list_keys, revoke_key
from moderation.database.moves import retry_case
from moderation.database.operations import DeadLetter, find_dead_letter, list_dead_letters, mark_replayed
from moderation.dispatch import (
    ANALYZE_CASE,
    ANSWER_QUESTION,
    QUESTION_QUEUE,
    RERUN_CASE,
    RERUN_QUEUE,
    Doorbell,
)
from moderation.local import sweeper_command, web_command, worker_command
from moderation.settings import settings
from moderation.storage import Storage

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

dead_letters = typer.Typer(help="Messages nobody could process, kept for an engineer.", no_args_is_help=True)
keys = typer.Typer(help="API keys of platforms.", no_args_is_help=True)


#: What a message of these tasks rings for. None of it is a case.
_RUNG_BY_ITSELF = {ANSWER_QUESTION: "a question", RERUN_CASE: "a rerun"}
#: The one task of whose messages a queue consists.
_TASK_OF = {QUESTION_QUEUE: ANSWER_QUESTION, RERUN_QUEUE: RERUN_CASE}


def open_database(*, answer_seconds: float | None = None) -> Database:
    return Database(settings().database_url.get_secret_value(), pool_size=1, answer_seconds=answer_seconds)


@contextmanager
def _session() -> Generator[Session]:
    """One transaction on a database that is opened for it."""
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
    """Run a sweeper. Several may run: one works at a time."""
    _become(sweeper_command())


def _become(command: list[str]) -> None:
    settings()  # what cannot be used is said here, in a sentence
    # Not a child: signals, exit code and process id are then those of the program itself.
    os.execv(command[0], command)


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; end with 1 when something is to be done.")
    ] = False,
) -> None:
    """Bring the database schema and its roles to this release. That of a later release is left as it is."""
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
        typer.echo(
            f"bonafide: no role has its rights: {', '.join(missing)} are missing, and this user may not create roles. "
            "Let an administrator run roles.sql of moderation/database, then run this again",
            err=True,
        )


def doctor(json_: AsJson = False) -> None:
    """Find out why it does not work: look at every part and say what to change."""
    findings = examine(settings())
    if json_:
        for finding in findings:
            typer.echo(json.dumps(dataclasses.asdict(finding)))
    else:
        table = Table("part", "", "what was found")
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[red]mend[/]"
            table.add_row(finding.part, mark if finding.looked_at else "?", escape(finding.words))
        Console().print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def retry(case: Annotated[UUID, typer.Argument(help="A case that is ready without a verdict.")]) -> None:
    """Try a case without a verdict once more."""
    with _session() as session:
        done = retry_case(session, case, actor="operator")
    if not done:
        typer.echo(f"bonafide: case {case} is not ready without a verdict", err=True)
        raise typer.Exit(1)
    typer.echo(f"case {case} is waiting again")


def erase(case: Annotated[UUID, typer.Argument(help="A case that was decided or withdrawn.")]) -> None:
    """Take the texts of a case that ended and the place of its image away, for ever. The log of events stays whole.

    An archived case is taken out of its archive first.
    """
    with closing(open_database()) as database:
        with database.transaction() as session:
            archived = archive_of(session, case) is not None
            done = not archived and erase_case(
                session, case, actor="operator", keep_hash=settings().keep_hashes
            )
        if archived:
            Archives(database, Storage(settings()), settings()).erase(case, actor="operator")
    if not archived and not done:
        typer.echo(
            f"bonafide: case {case} is neither decided nor withdrawn, was erased already, its decision can still"
            " be undone, or a webhook about it is still to be sent",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(f"case {case} is erased")


@dead_letters.command("list")
def list_(json_: AsJson = False) -> None:
    """Show dead letters, the newest first."""
    with _session() as session:
        letters = list_dead_letters(session)
    if json_:
        for letter in letters:
            typer.echo(json.dumps(dataclasses.asdict(letter), default=str))
        return
    table = Table("id", "since", "error", "body")
    for letter in letters:
        table.add_row(
            str(letter.id),
            f"{letter.created_at:%Y-%m-%d %H:%M:%S}",
            escape(letter.error),
            escape(letter.body[:80]),
        )
    print_table(table)


@dead_letters.command()
def replay(letter: Annotated[UUID, typer.Argument(help="A dead letter that names a case.")]) -> None:
    """Ring again for the case that a dead letter names."""
    chosen = settings()
    with _session() as session:
        found = find_dead_letter(session, letter)
        case = None if found is None else _named_case(found.body)
        against = _against(session, found, case)
        if case is None or against is not None:
            typer.echo(f"bonafide: {against}", err=True)
            raise typer.Exit(1)
        doorbell = Doorbell(chosen.broker_url.get_secret_value(), bells_at_most=chosen.bells_at_most)
        if not doorbell.dispatch_case(case):
            typer.echo("bonafide: the broker does not answer", err=True)
            raise typer.Exit(1)
        mark_replayed(session, letter)
    typer.echo(f"rang for case {case}")


def _against(session: Session, letter: DeadLetter | None, case: UUID | None) -> str | None:
    """Why nothing can be rung for, and what happens instead. None: the letter's case may be rung for."""
    if letter is None:
        return "there is no such dead letter"
    task = _named_task(letter)
    if task in _RUNG_BY_ITSELF:
        return f"this dead letter rings for {_RUNG_BY_ITSELF[task]}: the sweeper rings again by itself while one waits"
    if task not in (None, ANALYZE_CASE):
        return f"this dead letter is of the task {task!r} and rings for no case: the sweeper rings for all that wait"
    if case is None:
        return "this dead letter names no case: nothing can be rung for"
    if find_case(session, case) is None:
        return f"there is no case {case}: nothing is rung for, and what waits the sweeper rings for"
    return None


def _named_task(letter: DeadLetter) -> str | None:
    """The task that the message says it is of, or whose queue it was on. None when neither says."""
    try:
        task = json.loads(letter.body)["headers"]["task"]
    except (ValueError, TypeError, LookupError, RecursionError):
        task = None
    return task if isinstance(task, str) else _TASK_OF.get(letter.queue)


def _named_case(body: str) -> UUID | None:
    """The first thing in the message that is a UUID in the place of an argument."""
    import re

    for match in re.finditer(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", body):
        case = UUID(match.group())
        if case.version == 7:  # ours; a message's own id is of version 4
            return case
    return None


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is; the default source of its cases.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help=f"What it may do: {', '.join(SCOPES)}. [default: {', '.join(USUAL_SCOPES)}]"),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Make an API key. It is shown once."""
    unknown = set(scope or ()) - set(SCOPES)
    if unknown:
        raise typer.BadParameter(f"unknown: {', '.join(sorted(unknown))}", param_hint="--scope")
    with _session() as session:
        secret = add_key(session, name, tuple(scope or USUAL_SCOPES))
    typer.echo(json.dumps({"name": name, "key": secret}) if json_ else secret)


@keys.command("list")
def list_keys_(json_: AsJson = False) -> None:
    """Show the keys: whose, since when, last used."""
    with _session() as session:
        found = list_keys(session)
    if json_:
        for key in found:
            typer.echo(json.dumps(dataclasses.asdict(key), default=str))
        return
    table = Table("prefix", "name", "scopes", "made", "last used", "revoked")
    for key in found:
        moments = [
            f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.created_at, key.last_used_at, key.revoked_at)
        ]
        table.add_row(key.prefix, escape(key.name), " ".join(key.scopes), *moments)
    print_table(table)


@keys.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="The key's prefix: the part between the underscores.")],
) -> None:
    """Close a key for ever. Within ten seconds no process believes it any more."""
    with _session() as session:
        done = revoke_key(session, prefix)
    if not done:
        typer.echo(f"bonafide: no open key has the prefix {prefix}", err=True)
        raise typer.Exit(1)
    typer.echo(f"revoked {prefix}")
