"""`bonafide hashes`: lists of what pictures look like, in and out."""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from moderation.cli.operate import AsJson, open_database
from moderation.decisions import Outcome
from moderation.errors import RequestRefused
from moderation.evidence import related
from moderation.evidence.hash_lists import Form, read_hashes, write_hashes

app = typer.Typer(
    help="PDQ hashes of pictures that others know: a case that looks like one shows the list's name.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The name of the list, as people will see it.")]


@app.command("import")
def import_(
    name: Name,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV, or the lines of HMA's file exchange.")
    ],
    note: Annotated[str | None, typer.Option(help="What it is a list of, for people.")] = None,
) -> None:
    """Add a file's hashes to a list, which is made when there is none. Again without harm."""
    with file.open(encoding="utf-8-sig") as lines:
        entries = list(read_hashes(lines))
    with closing(open_database()) as database, database.transaction() as session:
        added = related.put_list(session, name, note, entries)
    typer.echo(f"{added} of {len(entries)} hashes are new to {name}")


@app.command("export")
def export(
    name: Annotated[str | None, typer.Argument(help="A list. Without one: what people decided.")] = None,
    decided: Annotated[Outcome, typer.Option(help="Without a list: decided to be this.")] = Outcome.DEEPFAKE,
    form: Annotated[Form, typer.Option(help="`hma`: the lines of HMA's file exchange.")] = Form.CSV,
) -> None:
    """Print the hashes of a list, or of the pictures whose decision stands, for a bank of one's own."""
    with closing(open_database()) as database, database.transaction() as session:
        if name is not None and name not in {one.name for one in related.hash_lists(session)}:
            raise RequestRefused(f"there is no list {name}; `bonafide hashes list` shows them")
        found = (
            related.hashes_decided(session, decided)
            if name is None
            else related.hashes_of_list(session, name)
        )
        for line in write_hashes(found, form):
            typer.echo(line)


@app.command("list")
def list_(json_: AsJson = False) -> None:
    """Show the lists."""
    with closing(open_database()) as database, database.transaction() as session:
        found = related.hash_lists(session)
    if json_:
        for one in found:
            typer.echo(json.dumps({"name": one.name, "hashes": one.hashes, "note": one.note}))
        return
    table = Table("list", "hashes", "note")
    for one in found:
        table.add_row(one.name, f"{one.hashes:,}", one.note or "")
    Console().print(table)


@app.command("remove")
def remove(name: Name) -> None:
    """Forget a list. Cases keep their own hashes."""
    with closing(open_database()) as database, database.transaction() as session:
        if not related.remove_list(session, name):
            raise RequestRefused(f"there is no list {name}; `bonafide hashes list` shows them")
    typer.echo(f"{name} is forgotten")
