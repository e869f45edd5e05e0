"""People, webhooks and exports: what an admin does on the server, without signing in."""

import sys
from collections.abc import Generator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape

from moderation.accounts.accounts import PASSWORD_AT_LEAST, Accounts, new_password
from moderation.cli.operate import in_utc, moment, open_database
from moderation.cli.printing import AsJson, print_json, print_rows
from moderation.database.outbox import Kind
from moderation.errors import SetupProblem
from moderation.logs import configure_logs
from moderation.people import Person, Role
from moderation.reports.exports import Format, What, export
from moderation.settings import settings
from moderation.webhooks.delivery_rows import Delivery
from moderation.webhooks.endpoints import Webhooks

users = typer.Typer(help="People who review in the console.", no_args_is_help=True)
webhooks = typer.Typer(help="Endpoints that are told what happens to cases.", no_args_is_help=True)

_console = Console(stderr=True, highlight=False)

Endpoint = Annotated[UUID, typer.Argument(help="A webhook endpoint's id, from `webhooks list`.")]


@contextmanager
def _accounts() -> Generator[Accounts]:
    configure_logs(settings())  # to standard error: a script may read a password from standard output
    with closing(open_database()) as database:
        yield Accounts(database, settings())


@contextmanager
def _webhooks() -> Generator[Webhooks]:
    with closing(open_database()) as database:
        yield Webhooks(database, settings())


# --- people


@users.command("add")
def add_user(
    email: Annotated[str, typer.Argument(help="The email they sign in with.")],
    name: Annotated[str, typer.Argument(help="Their name in the console.")],
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.REVIEWER,
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help=f"Read a password of {PASSWORD_AT_LEAST} or more characters from standard input.",
        ),
    ] = False,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="They sign in only through the identity provider.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Add a person. Without --password-stdin or --no-password, a random password is made and shown once."""
    if password_stdin and no_password:
        raise typer.BadParameter("a password and none", param_hint="--no-password")
    made = None if password_stdin or no_password else new_password()
    given = sys.stdin.readline().rstrip("\n") if password_stdin else made
    with _accounts() as accounts:
        # A password that we made must be changed at the first sign-in; a given one may stay.
        person = accounts.add_person(email, name, role, given, first=made is not None)
    if json_:
        print_json({**_shown(person), "password": made})
        return
    _console.print(f"{escape(person.email)} may sign in as {person.role}")
    if made is not None:
        _console.print("Their first password, shown once; they choose another when they sign in:")
        typer.echo(made)


@users.command("list")
def list_users(json_: AsJson = False) -> None:
    """List people: role, since when, whether they may sign in."""
    with _accounts() as accounts:
        people = accounts.list_people()
    print_rows(
        people,
        {"email": "email", "name": "name", "role": "role", "since": "created_at", "disabled": "disabled_at"},
        as_json=json_,
        fields=_shown,
    )


@users.command("disable")
def disable_user(email: Annotated[str, typer.Argument(help="Whose access ends at once.")]) -> None:
    """Disable a person. Their decisions stay."""
    with _accounts() as accounts:
        accounts.disable(None, accounts.find_person(email).id)
    typer.echo(f"{email} is shut out")


@users.command("enable")
def enable_user(email: Annotated[str, typer.Argument(help="Who may sign in again.")]) -> None:
    """Enable a person again, with the same password."""
    with _accounts() as accounts:
        accounts.enable(None, accounts.find_person(email).id)
    typer.echo(f"{email} may sign in again")


@users.command("set-role")
def set_role(
    email: Annotated[str, typer.Argument(help="Whose role changes.")],
    role: Annotated[Role, typer.Argument(help="The new role.")],
) -> None:
    """Change a person's role. At least one person who may manage people must remain."""
    with _accounts() as accounts:
        accounts.set_role(None, accounts.find_person(email).id, role)
    typer.echo(f"{email} is {role} now")


@users.command("reset-password")
def reset_password(email: Annotated[str, typer.Argument(help="Who gets a new password.")]) -> None:
    """Make a new first password and show it once. All sessions of the person end."""
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
    kind: Annotated[list[Kind] | None, typer.Option(help="May be repeated.", show_default="all")] = None,
    source: Annotated[str | None, typer.Option(help="Only cases of this source.", show_default="all")] = None,
    json_: AsJson = False,
) -> None:
    """Add an endpoint and show its secret once. The same URL and source is the same endpoint."""
    with _webhooks() as opened:
        added = opened.add(url, kind or list(Kind), source)
    endpoint = added.endpoint
    if json_:
        print_json({"id": endpoint.id, "url": endpoint.url, "secret": added.secret})
    elif added.secret is None:
        _console.print(f"endpoint {endpoint.id} was there already: its kinds are those of now")
        _console.print(f"Its secret was shown then; `bonafide webhooks rotate {endpoint.id}` makes another")
    else:
        _console.print(f"endpoint {endpoint.id}; its secret, shown once:")
        typer.echo(added.secret)


@webhooks.command("list")
def list_webhooks(json_: AsJson = False) -> None:
    """List the endpoints, without their secrets."""
    with _webhooks() as opened:
        endpoints = opened.endpoints()
    print_rows(
        endpoints,
        {
            "id": "id",
            "url": "url",
            "kinds": "kinds",
            "source": lambda endpoint: endpoint.source or "all",
            "disabled": "disabled_at",
        },
        as_json=json_,
        fields=lambda endpoint: {**asdict(endpoint), "secrets": len(endpoint.secrets)},
    )


@webhooks.command("remove")
def remove_webhook(endpoint: Endpoint) -> None:
    """Remove an endpoint with its log and its waiting deliveries."""
    with _webhooks() as opened:
        opened.remove(endpoint)
    typer.echo(f"removed {endpoint}")


@webhooks.command("rotate")
def rotate_webhook(endpoint: Endpoint) -> None:
    """Make a new secret and show it once. The secret before it signs too, until the next rotation."""
    with _webhooks() as opened:
        typer.echo(opened.rotate(endpoint).secrets[0])


@webhooks.command("log")
def show_log(
    endpoint: Annotated[
        UUID | None, typer.Argument(help="An endpoint.", show_default="given-up deliveries of all")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most this many, newest first.")] = 50,
    json_: AsJson = False,
) -> None:
    """List the deliveries to an endpoint, or those that were given up."""
    with _webhooks() as opened:
        found = opened.dead(limit=limit) if endpoint is None else opened.deliveries(endpoint, limit=limit)
    print_rows(
        found,
        {
            "id": "id",
            "kind": "kind",
            "case": "case_id",
            "state": "state",
            "tries": "attempts",
            "last answer": _ended,
        },
        as_json=json_,
        fields=lambda delivery: {**asdict(delivery), "state": delivery.state},
    )


def _ended(delivery: Delivery) -> str:
    return delivery.last_error or ("" if delivery.last_status is None else str(delivery.last_status))


@webhooks.command("resend")
def resend(delivery: Annotated[UUID, typer.Argument(help="A delivery's id, from `webhooks log`.")]) -> None:
    """Send a delivery again, with all its tries."""
    with _webhooks() as opened:
        state = opened.resend(delivery).state
    typer.echo(f"{delivery} is {state}")


# --- data out


def export_(
    what: Annotated[What, typer.Argument(help="Which rows.")],
    form: Annotated[Format, typer.Option("--format", help="The form of the rows.")] = Format.JSONL,
    since: Annotated[datetime | None, moment("Made at or after this time, UTC.")] = None,
    until: Annotated[datetime | None, moment("Made before this time, UTC.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file.", show_default="standard output")] = None,
    bom: Annotated[
        bool | None,
        typer.Option(
            "--bom/--no-bom",
            help="Begin CSV with a byte-order mark, by which Excel knows UTF-8.",
            show_default="in files",
        ),
    ] = None,
) -> None:
    """Write decisions, analyses, evidence, feedback or erasures.

    Feedback as jsonl is DFA-Instruct-ready conversations. Erasures are cases that were erased or taken back in the
    period; `bonafide erase --from` redoes them after a restore.
    """
    if bom is not None and form is not Format.CSV:
        raise typer.BadParameter("only CSV has a byte-order mark", param_hint="--bom")
    period = {"since": in_utc(since), "until": in_utc(until)}
    mark = bom if bom is not None else out is not None
    if out is None and form is Format.PARQUET and sys.stdout.isatty():
        raise typer.BadParameter("Parquet is not for a terminal: name a file", param_hint="--out")
    place = nullcontext(sys.stdout.buffer) if out is None else _put_at(out)
    with closing(open_database()) as database, place as file:
        rows = export(database, what, form, file, mark=mark, **period)
        file.flush()
    _console.print(f"{rows:,} rows of {what}")


@contextmanager
def _put_at(place: Path) -> Generator[BinaryIO]:
    """A file that is put at this place once it is whole. Raise SetupProblem; then nothing is there that was not."""
    try:
        if place.exists() and not place.is_file():
            raise SetupProblem(f"{place} cannot be written: it is no file. Name a file, or leave --out away")
        # Written beside it, then moved: nobody takes half an export for a whole one.
        part = place.with_name(place.name + ".part")
        file = part.open("wb")
    except OSError as error:
        raise SetupProblem(f"{place} cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
        part.replace(place)
    except OSError as error:
        raise SetupProblem(f"{place} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
