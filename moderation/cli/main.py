"""Collects the commands, and turns errors into one sentence and an exit code."""

import sys
from contextlib import closing
from importlib.metadata import version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from typer.core import TyperGroup

from moderation.cli import (
    admin,
    archive,
    bridge,
    bulk,
    bundles,
    cases,
    dfa,
    hashes,
    model,
    operate,
    stack,
    trust,
)
from moderation.client import ApiProblem
from moderation.database.connection import first_line, lacks_rights, lacks_tables
from moderation.database.schema import SCHEMA_BEHIND, is_current
from moderation.errors import BonafideError, BundleMismatch, DatabaseUnavailable, SetupProblem


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Typer puts pydantic's name of the error before the sentence.
            error.message = error.message.removeprefix("Value error, ")
            raise


app = typer.Typer(
    name="bonafide",
    cls=_Commands,
    help="Flagged images in, verdicts with rationales out, people decide.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:  # noqa: FBT001  typer calls it
    if asked:
        typer.echo(f"bonafide {version('bonafide-moderation')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    """Flagged images in, verdicts with rationales out, people decide."""


for command in (stack.up, stack.demo):
    app.command(rich_help_panel="Everything on this machine")(command)
for command in (
    cases.submit,
    bulk.bulk,
    cases.status,
    cases.cases,
    cases.statement,
    cases.appeal,
    cases.withdraw,
):
    app.command(rich_help_panel="Platforms")(command)
for command in (model.analyze, model.chat):
    app.command(rich_help_panel="The model alone")(command)
for command in (
    operate.serve,
    operate.worker,
    operate.sweeper,
    operate.migrate,
    operate.doctor,
    operate.retry,
    operate.erase,
    trust.certify,
    trust.drift,
):
    app.command(rich_help_panel="Operators")(command)
#: Groups of commands for operators.
_GROUPS = {
    "dead-letters": operate.dead_letters,
    "keys": operate.keys,
    "archive": archive.app,
    "bundles": bundles.app,
    "bridge": bridge.app,
    "hashes": hashes.app,
    "users": admin.users,
    "webhooks": admin.webhooks,
}
for name, group in _GROUPS.items():
    app.add_typer(group, name=name, rich_help_panel="Operators")
app.command("export", rich_help_panel="Operators")(admin.export_)
app.add_typer(dfa.app, name="dfa", rich_help_panel="The paper's parts")


def main() -> None:
    """The entry point of `bonafide`."""
    try:
        app()
    except (SetupProblem, BundleMismatch) as error:
        _say(error)
        sys.exit(2)
    except (BonafideError, ApiProblem, TimeoutError) as error:
        _say(error)
        sys.exit(1)
    except (OperationalError, InterfaceError) as error:
        _say(DatabaseUnavailable("Postgres does not answer", inside=first_line(error)))
        sys.exit(1)
    except ProgrammingError as error:
        problem = _problem_of(error)
        if problem is None:
            raise
        _say(problem)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)  # whoever reads our output has closed it


def _problem_of(error: ProgrammingError) -> SetupProblem | None:
    """What the operator must change before Postgres can do this. None: it is a bug of ours."""
    if lacks_rights(error):
        return SetupProblem(
            f"the user that BONAFIDE_DATABASE_URL names may not do that: {error.orig}".strip()
        )
    if lacks_tables(error):
        with closing(operate.open_database()) as database:
            if not is_current(database):
                return SetupProblem(SCHEMA_BEHIND)
    return None


def _say(error: Exception) -> None:
    Console(stderr=True).print(
        f"[bold red]bonafide:[/] {escape(str(error))}", highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    main()
