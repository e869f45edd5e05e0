"""People, webhooks and data out: what an admin does on the server, where nobody asks for a password."""

import dataclasses
import json
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moderation.accounts import PASSWORD_AT_LEAST, Accounts, new_password
from moderation.cli.operate import AsJson, open_database
from moderation.cli.show import print_table
from moderation.database.deliveries import Delivery, Kind
from moderation.delivery import Webhooks
from moderation.exports import Format, What, export
from moderation.logs import configure_logs
from moderation.people import Person, Role
from moderation.settings import settings

users = typer.Typer(help="People who review in the console.", no_args_is_help=True)
webhooks = typer.Typer(help="Where platforms are told what happens to cases.", no_args_is_help=True)

#: How a moment is written on the command line.
_WHEN = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

_console = Console(stderr=True, highlight=False)

Endpoint = Annotated[UUID, typer.Argument(help="A webhook endpoint's id, from `webhooks list`.")]


@contextmanager
def _accounts() -> Generator[Accounts]:
    configure_logs(settings())  # to standard error: what is printed may be a password that a script reads
    with closing(open_database()) as database:
        yield Accounts(database, settings())


@contextmanager
def _webhooks() -> Generator[Webhooks]:
    with closing(open_database()) as database:
        yield Webhooks(database, settings())


# --- people


@users.command("add")
def add_user(
    email: Annotated[str, typer.Argument(help="What they sign in with.")],
    name: Annotated[str, typer.Argument(help="How the console calls them.")],
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.REVIEWER,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help=f"Read a password of {PASSWORD_AT_LEAST} or more characters from standard input.",
        ),
    ] = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="They sign in through the identity provider alone.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Add somebody. Without a password of yours a random one is made and shown once."""
    if password_stdin and no_password:
        raise typer.BadParameter("a password and none", param_hint="--no-password")
    made = None if password_stdin or no_password else new_password()
    given = sys.stdin.readline().rstrip("\n") if password_stdin else made
    with _accounts() as accounts:
        # One that was piped in is theirs, perhaps from a vault; one that was made here is passed on.
        person = accounts.add_person(email, name, role, given, first=made is not None)
    if json_:
        typer.echo(json.dumps({**_shown(person), "password": made}))
        return
    _console.print(f"{escape(person.email)} may sign in as {person.role}")
    if made is not None:
        _console.print("Their first password, shown once; they choose another when they sign in:")
        typer.echo(made)


@users.command("list")
def list_users(json_: AsJson = False) -> None:
    """Show everybody: role, since when, whether they may sign in."""
    with _accounts() as accounts:
        people = accounts.list_people()
    if json_:
        for person in people:
            typer.echo(json.dumps(_shown(person)))
        return
    rows = [
        [person.email, person.name, person.role, _day(person.created_at), _day(person.disabled_at)]
        for person in people
    ]
    _print(["email", "name", "role", "since", "disabled"], rows)


@users.command("disable")
def disable_user(email: Annotated[str, typer.Argument(help="Whose access ends, at once.")]) -> None:
    """Shut somebody out. What they decided stays."""
    with _accounts() as accounts:
        accounts.disable(None, accounts.find_person(email).id)
    typer.echo(f"{email} is shut out")


@users.command("enable")
def enable_user(email: Annotated[str, typer.Argument(help="Who may sign in again.")]) -> None:
    """Let somebody in again who was shut out, with the password of before."""
    with _accounts() as accounts:
        accounts.enable(None, accounts.find_person(email).id)
    typer.echo(f"{email} may sign in again")


@users.command("set-role")
def set_role(
    email: Annotated[str, typer.Argument(help="Whose role it is.")],
    role: Annotated[Role, typer.Argument(help="What they may do from now on.")],
) -> None:
    """Give somebody another role. There is always somebody left who may manage people."""
    with _accounts() as accounts:
        accounts.set_role(None, accounts.find_person(email).id, role)
    typer.echo(f"{email} is {role} now")


@users.command("reset-password")
def reset_password(email: Annotated[str, typer.Argument(help="Who cannot sign in any more.")]) -> None:
    """Make a new first password, shown once. Every session of that person ends."""
    with _accounts() as accounts:
        typer.echo(accounts.reset_password(None, accounts.find_person(email).id))


def _shown(person: Person) -> dict[str, Any]:
    return {
        "id": str(person.id),
        "email": person.email,
        "name": person.name,
        "role": person.role,
        "created_at": person.created_at and person.created_at.isoformat(),
        "disabled_at": person.disabled_at and person.disabled_at.isoformat(),
    }


# --- webhooks


@webhooks.command("add")
def add_webhook(
    url: Annotated[str, typer.Argument(help="An https:// URL with a public address.")],
    kind: Annotated[list[Kind] | None, typer.Option(help="May be repeated. [default: all]")] = None,
    source: Annotated[str | None, typer.Option(help="Only cases of this source. [default: all]")] = None,
    json_: AsJson = False,
) -> None:
    """Tell a URL from now on. Its secret is shown once. The same URL and source again is the same endpoint."""
    with _webhooks() as opened:
        added = opened.add(url, kind or list(Kind), source)
    endpoint = added.endpoint
    if json_:
        typer.echo(json.dumps({"id": str(endpoint.id), "url": endpoint.url, "secret": added.secret}))
    elif added.secret is None:
        _console.print(f"endpoint {endpoint.id} was there already: its kinds are those of now")
        _console.print(f"Its secret was shown then; `bonafide webhooks rotate {endpoint.id}` makes another")
    else:
        _console.print(f"endpoint {endpoint.id}; its secret, shown once:")
        typer.echo(added.secret)


@webhooks.command("list")
def list_webhooks(json_: AsJson = False) -> None:
    """Show the endpoints, without their secrets."""
    with _webhooks() as opened:
        endpoints = opened.endpoints()
    if json_:
        for one in endpoints:
            shown = {**dataclasses.asdict(one), "secrets": len(one.secrets)}
            typer.echo(json.dumps(shown, default=str))
        return
    rows = [
        [str(one.id), one.url, " ".join(one.kinds), one.source or "all", _day(one.disabled_at)]
        for one in endpoints
    ]
    _print(["id", "url", "kinds", "source", "disabled"], rows)


@webhooks.command("remove")
def remove_webhook(endpoint: Endpoint) -> None:
    """Take an endpoint out, with its log and what is in line for it."""
    with _webhooks() as opened:
        opened.remove(endpoint)
    typer.echo(f"removed {endpoint}")


@webhooks.command("rotate")
def rotate_webhook(endpoint: Endpoint) -> None:
    """Make a new secret, shown once. The one before signs beside it until the next rotation."""
    with _webhooks() as opened:
        typer.echo(opened.rotate(endpoint).secrets[0])


@webhooks.command("log")
def show_log(
    endpoint: Annotated[
        UUID | None, typer.Argument(help="An endpoint. [default: what was given up, of all]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, the newest first.")] = 50,
    json_: AsJson = False,
) -> None:
    """Show what was sent to an endpoint, or what was given up."""
    with _webhooks() as opened:
        found = opened.dead(limit=limit) if endpoint is None else opened.deliveries(endpoint, limit=limit)
    if json_:
        for one in found:
            typer.echo(json.dumps({**dataclasses.asdict(one), "state": one.state}, default=str))
        return
    rows = [
        [str(one.id), one.kind, str(one.case_id), one.state, str(one.attempts), _ended(one)] for one in found
    ]
    _print(["id", "kind", "case", "state", "tries", "last answer"], rows)


def _ended(delivery: Delivery) -> str:
    return delivery.last_error or ("" if delivery.last_status is None else str(delivery.last_status))


@webhooks.command("resend")
def resend(
    delivery: Annotated[UUID, typer.Argument(help="A delivery's id, from `webhooks log`.")],
) -> None:
    """Send once more, with all tries before it."""
    with _webhooks() as opened:
        state = opened.resend(delivery).state
    typer.echo(f"{delivery} is {state}")


# --- data out


def export_(
    what: Annotated[What, typer.Argument(help="decisions, analyses or feedback.")],
    form: Annotated[Format, typer.Option("--format", help="How it is written.")] = Format.JSONL,
    since: Annotated[
        datetime | None, typer.Option(help="Made at or after this time, UTC.", formats=_WHEN)
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Made before this time, UTC.", formats=_WHEN)] = None,
    out: Annotated[Path | None, typer.Option(help="A file. [default: standard output]")] = None,
    bom: Annotated[
        bool | None,
        typer.Option(
            "--bom/--no-bom",
            help="Begin CSV with a byte-order mark, by which Excel knows UTF-8. [default: in files]",
        ),
    ] = None,
) -> None:
    """Write decisions, analyses or feedback. Feedback as jsonl is DFA-Instruct-ready conversations."""
    if bom is not None and form is not Format.CSV:
        raise typer.BadParameter("only CSV has a byte-order mark", param_hint="--bom")
    period = {"since": _utc(since), "until": _utc(until)}
    mark = bom if bom is not None else out is not None
    with closing(open_database()) as database:
        if out is None:
            if form is Format.PARQUET and sys.stdout.isatty():
                raise typer.BadParameter("Parquet is not for a terminal: name a file", param_hint="--out")
            rows = export(database, what, form, sys.stdout.buffer, mark=mark, **period)
            sys.stdout.buffer.flush()
        else:
            # Written beside and moved: half an export is never taken for a whole one.
            part = out.with_name(out.name + ".part")
            with part.open("wb") as file:
                rows = export(database, what, form, file, mark=mark, **period)
            part.replace(out)
    _console.print(f"{rows:,} rows of {what}")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    print_table(table)
