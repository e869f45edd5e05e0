"""`bonafide archive`: old cases out of Postgres into S3, and back."""

import dataclasses
import json
import re
from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import typer

from moderation.archive import Archives, Batch, find_line, read_place
from moderation.cli.operate import AsJson, open_database
from moderation.errors import SetupProblem
from moderation.settings import settings
from moderation.storage import Storage

#: Longer than any statement of an archive's may take.
ANSWER_SECONDS = 600.0

app = typer.Typer(
    help="Move what old cases consist of to S3, read it there, bring it back.", invoke_without_command=True
)

Object = Annotated[str, typer.Argument(help="s3://BUCKET/KEY of an archive's object.")]
Case = Annotated[UUID, typer.Argument(help="An archived case.")]


@contextmanager
def _archives() -> Generator[Archives]:
    chosen = settings()
    # At night and by itself: it must end when Postgres falls silent, or it would never begin again.
    with closing(open_database(answer_seconds=ANSWER_SECONDS)) as database:
        yield Archives(database, Storage(chosen), chosen)


@app.callback()
def archive(
    context: typer.Context,
    decided_before: Annotated[
        str | None,
        typer.Option(help="Cases decided longer ago than this: 400d, or before a date: 2026-01-31."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="BUCKET/PREFIX to write to. [default: the setting ARCHIVE]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many cases.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    json_: AsJson = False,
) -> None:
    """Write decided cases to S3, verify what was written, delete it here. Safe to stop and to repeat."""
    if context.invoked_subcommand is not None:
        return
    if decided_before is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    before = _moment(decided_before)
    if dry_run:
        with closing(open_database()) as database:
            found = Archives(database, Storage(settings()), settings()).count(before, limit=limit)
        typer.echo(json.dumps({"cases": found}) if json_ else f"{found:,} cases could be archived")
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


def _tell(batch: Batch, *, json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(dataclasses.asdict(batch), default=str))
        return
    if batch.place is not None:
        typer.echo(f"{batch.cases:,} cases, {batch.size:,} bytes: {batch.place}")
    for case in batch.broken:
        typer.echo(f"bonafide: the chain of events of case {case} does not hold; it stays", err=True)


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
    case: Annotated[UUID | None, typer.Option(help="Only this one. [default: all]")] = None,
) -> None:
    """Print the cases of an object, one JSON object a line."""
    with _archives() as archives:
        opened = archives.read(read_place(place))
    for line in opened.lines if case is None else [find_line(opened, case)]:
        typer.echo(line)


@app.command()
def verify(place: Object) -> None:
    """Count the cases of an object, compare its digest, and check every chain of events."""
    with _archives() as archives:
        manifest = archives.read(read_place(place)).manifest
    typer.echo(f"{manifest['cases']:,} cases, every chain holds; sha256 {manifest['sha256']}")


@app.command()
def restore(case: Case) -> None:
    """Bring a case back as it was, for an appeal say, and take it out of its object."""
    with _archives() as archives:
        archives.restore(case)
    typer.echo(f"case {case} is back")
