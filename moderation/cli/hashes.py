"""`bonafide hashes`: import and export lists of picture hashes."""

from pathlib import Path
from typing import Annotated

import typer

from moderation.cli.operate import open_session
from moderation.cli.printing import AsJson, print_rows
from moderation.decisions import Outcome
from moderation.errors import RequestRefused
from moderation.evidence import related
from moderation.evidence.hash_lists import HashListForm, read_hashes, write_hashes

app = typer.Typer(
    help="Lists of PDQ hashes. A case whose picture looks like a listed one shows the list's name.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="The name of the list, as people will see it.")]


@app.command("import")
def import_(
    name: Name,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV, or the lines of HMA's file exchange.")
    ],
    note: Annotated[str | None, typer.Option(help="What the list holds, in words.")] = None,
) -> None:
    """Add a file's hashes to a list; the list is made if needed. Safe to repeat."""
    with file.open(encoding="utf-8-sig") as lines:
        entries = list(read_hashes(lines))
    with open_session() as session:
        added = related.put_list(session, name, note, entries)
    typer.echo(f"{added} of {len(entries)} hashes are new to {name}")


@app.command("export")
def export(
    name: Annotated[
        str | None, typer.Argument(help="A list's name. Without it: pictures that people decided.")
    ] = None,
    decided: Annotated[
        Outcome, typer.Option(help="Without a list: pictures with this decision.")
    ] = Outcome.DEEPFAKE,
    form: Annotated[
        HashListForm, typer.Option(help="`hma`: the lines of HMA's file exchange.")
    ] = HashListForm.CSV,
) -> None:
    """Print the hashes of a list, or of decided pictures, for another hash bank."""
    with open_session() as session:
        if name is not None and name not in {listed.name for listed in related.hash_lists(session)}:
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
    with open_session() as session:
        found = related.hash_lists(session)
    print_rows(
        found,
        {"list": "name", "hashes": "hashes", "note": "note"},
        as_json=json_,
        fields=lambda listed: {"name": listed.name, "hashes": listed.hashes, "note": listed.note},
    )


@app.command("remove")
def remove(name: Name) -> None:
    """Forget a list. Cases keep their own hashes."""
    with open_session() as session:
        if not related.remove_list(session, name):
            raise RequestRefused(f"there is no list {name}; `bonafide hashes list` shows them")
    typer.echo(f"{name} is forgotten")
