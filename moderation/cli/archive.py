"""`bonafide archive`: moves old cases from Postgres to S3, and back."""

import re
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer

from moderation.archive.archiver import ArchivedBatch, Archives, find_line, read_place
from moderation.cli.operate import open_database
from moderation.cli.printing import AsJson, complain, print_json, print_object
from moderation.errors import SetupProblem
from moderation.settings import settings
from moderation.storage import Storage

#: Seconds. No statement of an archive may take longer.
ANSWER_SECONDS = 600.0

app = typer.Typer(help="Move old cases to S3, read them there, restore them.", invoke_without_command=True)

Object = Annotated[str, typer.Argument(help="s3://BUCKET/KEY of an archive's object.")]
Case = Annotated[UUID, typer.Argument(help="An archived case.")]


@contextmanager
def _archives() -> Generator[Archives]:
    # It runs at night, unwatched. When Postgres falls silent it must end, or the next run never starts.
    with closing(open_database(answer_seconds=ANSWER_SECONDS)) as database:
        yield Archives(database, Storage(settings()), settings())


@app.callback()
def archive(
    context: typer.Context,
    decided_before: Annotated[
        str | None,
        typer.Option(help="Cases decided longer ago than this (400d), or before this date (2026-01-31)."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Where to write: BUCKET/PREFIX.", show_default="the setting ARCHIVE")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many cases.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    json_: AsJson = False,
) -> None:
    """Write decided cases to S3, verify the copy, then delete them from Postgres. Safe to stop and to repeat."""
    if context.invoked_subcommand is not None:
        return
    if decided_before is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    before = _moment(decided_before)
    if dry_run:
        with closing(open_database()) as database:
            found = Archives(database, Storage(settings()), settings()).count(before, limit=limit)
        print_object({"cases": found}, f"{found:,} cases could be archived", as_json=json_)
        return
    where = to or settings().archive
    if where is None:
        raise SetupProblem("no place for archives is named: use --to or set BONAFIDE_ARCHIVE")
    cases = stayed = 0
    with _archives() as archives:
        for batch in archives.archive(read_place(where), before, limit=limit):
            cases, stayed = cases + batch.cases, stayed + len(batch.broken)
            _tell(batch, json_=json_)
    if not json_:
        typer.echo(f"{cases:,} cases archived")
    if stayed:
        raise typer.Exit(1)


def _tell(batch: ArchivedBatch, *, json_: bool) -> None:
    if json_:
        print_json(asdict(batch))
        return
    if batch.place is not None:
        typer.echo(f"{batch.cases:,} cases, {batch.size:,} bytes: {batch.place}")
    for case in batch.broken:
        complain(f"the chain of events of case {case} does not hold; it stays")


def _moment(written: str) -> datetime:
    days = re.fullmatch(r"(\d{1,5})d", written)
    if days:
        return datetime.now(UTC) - timedelta(days=int(days[1]))
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise typer.BadParameter("days as in 400d, or a date", param_hint="--decided-before") from error
    return moment.replace(tzinfo=moment.tzinfo or UTC)


@app.command()
def read(
    place: Object,
    case: Annotated[UUID | None, typer.Option(help="Only this case.", show_default="all")] = None,
) -> None:
    """Print the cases of an object, one JSON object a line."""
    with _archives() as archives:
        opened = archives.read(read_place(place))
    for line in opened.lines if case is None else [find_line(opened, case)]:
        typer.echo(line)


@app.command()
def verify(place: Object) -> None:
    """Check an object: its number of cases, its digest, and every chain of events."""
    with _archives() as archives:
        manifest = archives.read(read_place(place)).manifest
    typer.echo(f"{manifest['cases']:,} cases, every chain holds; sha256 {manifest['sha256']}")


@app.command()
def restore(case: Case) -> None:
    """Restore a case as it was, for example for an appeal, and remove it from its object."""
    with _archives() as archives:
        archives.restore(case)
    typer.echo(f"case {case} is back")
