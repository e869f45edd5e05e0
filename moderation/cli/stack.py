"""`bonafide up` and `bonafide demo`: the whole system in one terminal, on real servers."""

import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from moderation.cases import CaseState
from moderation.cli.printing import print_verdicts
from moderation.client import BonaFide
from moderation.errors import BaseMissing, SetupProblem
from moderation.local import (
    PEOPLE_FILE,
    Stack,
    System,
    add_first_people,
    free_port,
    require_free,
    scratch_folder,
    start_system,
)
from moderation.settings import STACK_ENV, settings
from moderation.wire import CaseOut

_screen = Console(stderr=True)

#: Children that are started again when they end by themselves. They hold nothing that the servers do not keep.
STARTED_AGAIN = ("worker", "sweeper")
#: How often in how many seconds. Who falls more often will fall again.
TIMES, WITHIN_SECONDS = 3, 600.0


def up(
    data: Annotated[Path, typer.Option(help="Where all data is kept.")] = Path(".bonafide"),
    port: Annotated[int, typer.Option(help="Port of the API.")] = 8000,
) -> None:
    """Run everything: PostgreSQL, Valkey, S3, migrations, worker, sweeper, API and console. Ctrl-C stops it."""
    require_free(port)
    with _stops_on_sigterm(), _running(data, port) as running:
        _screen.print(
            f"[bold green]Bona Fide is up[/] at [bold]{running.url}[/]   (data in {escape(str(data))})"
        )
        _invite(running)
        _screen.print(
            "In another terminal, in this folder: [bold]bonafide submit PICTURE --wait[/], "
            "[bold]bonafide cases[/], [bold]bonafide doctor[/]. Ctrl-C stops everything."
        )
        _wait_until_stopped(running.stack)


def demo(
    leave: Annotated[bool, typer.Option("--exit", help="Stop after the verdicts.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one case a line.")] = False,
) -> None:
    """Run everything in a fresh folder, submit the sample pictures and show their verdicts."""
    started = time.monotonic()
    with (
        _stops_on_sigterm(),
        scratch_folder("bonafide-demo-") as folder,
        _running(folder, free_port()) as running,
    ):
        ready = time.monotonic() - started
        with _samples() as pictures:
            done, names = _submit_and_wait(running, pictures)
        seconds = time.monotonic() - started
        print_verdicts(done, names, as_json=json_)
        _screen.print(f"Everything up in {ready:.1f} s, all verdicts in {seconds:.1f} s.")
        _screen.print("Models give verdicts; people make decisions. A verdict is an opinion with a score.")
        if leave:
            return
        _screen.print("\nNow it is your turn to decide.")
        _invite(running)
        _screen.print(
            "In another terminal, in this folder: [bold]bonafide cases[/], "
            "[bold]bonafide submit YOUR_PICTURE.jpg --wait[/]. Ctrl-C here stops everything."
        )
        _wait_until_stopped(running.stack)


def _invite(running: System) -> None:
    """Print the console's address and how to sign in."""
    _screen.print(f"The console: [bold]{running.url}/queue[/]")
    added = add_first_people(running)
    for person in added:
        _screen.print(f"  [bold]{person.email}[/]  password [bold]{person.password}[/]", highlight=False)
    if added:
        _screen.print(
            "  Sign in as the reviewer, press [bold]n[/] for a case, hold [bold]Space[/] to look, ", end=""
        )
        _screen.print("[bold]?[/] lists all keys.")
    elif (running.stack.folder / PEOPLE_FILE).exists():
        _screen.print(
            f"  The first passwords are in {escape(str(running.stack.folder / PEOPLE_FILE))}.",
            highlight=False,
        )


@contextmanager
def _running(folder: Path, port: int) -> Generator[System]:
    with Stack(folder) as stack:
        with _screen.status("starting") as status:
            overrides = _bundle_at_hand(status.update)
            system = start_system(stack, port=port, overrides=overrides, say=status.update)
        with _announced(stack.folder, system.env):
            yield system


def _bundle_at_hand(say: Callable[[str], None]) -> dict[str, str]:
    """Fetch the served bundle's base. If it cannot be fetched, serve the smaller bundle.

    Raise BaseMissing instead if the settings name the bundle.
    """
    from moderation.dfa.gpt.base import base_of, packaged_digest

    digest = packaged_digest(settings().bundle)
    try:
        if digest is not None:
            say(
                f"looking for the base of the model {settings().bundle}; the first time it is fetched, about a minute"
            )
            base_of(digest)
    except BaseMissing as error:
        if "bundle" in settings().model_fields_set:
            raise
        _screen.print(
            f"[bold]The smaller and weaker model mini serves[/]: {escape(str(error))}", highlight=False
        )
        return {"BONAFIDE_BUNDLE": "mini"}
    return {}


@contextmanager
def _announced(folder: Path, env: Mapping[str, str]) -> Generator[None]:
    """Write the addresses where other commands look, here and beside the data, until the end."""
    lines = "".join(f"{name}={value}\n" for name, value in env.items())
    places = {STACK_ENV.absolute(), folder / STACK_ENV.name}
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.touch(mode=0o600)  # it holds the store's secret and an API key
        place.write_text(lines)
    try:
        yield
    finally:
        for place in places:
            place.unlink(missing_ok=True)


@contextmanager
def _samples() -> Generator[list[Path]]:
    with as_file(files("moderation").joinpath("samples")) as folder:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".jpg")
        if not found:
            raise SetupProblem("the sample pictures are not installed")
        yield found


def _submit_and_wait(running: System, pictures: Iterable[Path]) -> tuple[list[CaseOut], dict[UUID, str]]:
    """Submit the pictures, show progress, and return the cases in the pictures' order."""
    with BonaFide(running.url, running.key) as client:
        names = {client.submit_file(path, source="demo", reason="sample").id: path.name for path in pictures}
        waiting = set(names)
        guard = Guard(running.stack)
        with _progress() as progress:
            task = progress.add_task("analysing", total=len(names))
            while waiting:
                guard.look(now=time.monotonic())
                waiting = {
                    c.id
                    for c in client.cases(source="demo")
                    if c.state in (CaseState.WAITING, CaseState.ANALYZING)
                }
                progress.update(task, completed=len(names) - len(waiting))
                time.sleep(0.2 if waiting else 0)
        return [client.case(case) for case in names], names


def _progress() -> Progress:
    columns = [
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    ]
    return Progress(*columns, console=_screen, transient=True)


class Guard:
    """Starts a worker or sweeper of a stack again when it ends by itself, a few times."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        #: When each was started again of late.
        self._again: dict[str, list[float]] = {}

    def look(self, *, now: float) -> None:
        """Start a fallen child again. Raise SetupProblem if it falls too often, or is one that ends everything."""
        fallen = self._stack.fallen()
        if fallen is None:
            return
        said = self._stack.how_ended(fallen)
        lately = [at for at in self._again.get(fallen, ()) if now - at < WITHIN_SECONDS]
        if fallen not in STARTED_AGAIN or len(lately) >= TIMES:
            raise SetupProblem(said)
        self._again[fallen] = [*lately, now]
        _screen.print(f"{escape(said)}. It is started again.", highlight=False, soft_wrap=True)
        self._stack.start_again(fallen)


def _wait_until_stopped(stack: Stack) -> None:
    guard = Guard(stack)
    try:
        while True:
            guard.look(now=time.monotonic())
            time.sleep(0.5)
    except KeyboardInterrupt:
        _screen.print("stopping")


@contextmanager
def _stops_on_sigterm() -> Generator[None]:
    """SIGTERM and a closed terminal stop everything in order, as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130 if os.isatty(0) else 0)
