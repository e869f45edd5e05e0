"""What a platform engineer does: submit, show, wait, withdraw. All of it goes through the API."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from moderation.analysis import Label
from moderation.cases import CaseState
from moderation.cli.pictures import pictures_of
from moderation.cli.printing import AsJson, print_case, print_cases, print_json_lines, print_verdicts
from moderation.client import ApiProblem, BonaFide
from moderation.decisions import Outcome
from moderation.errors import SetupProblem
from moderation.settings import settings
from moderation.wire import CaseOut

#: Values of `--verdict`.
_VERDICTS = (*Label, "none")


def open_client(*, tries: int = 5) -> BonaFide:
    """A client of the API that the settings name. Raise SetupProblem."""
    key = settings().api_key
    if key is None:
        raise SetupProblem(
            "no API key: set BONAFIDE_API_KEY, or run this in the folder where `bonafide up` runs"
        )
    try:
        return BonaFide(settings().api_url, key.get_secret_value(), tries=tries)
    except ValueError as error:
        raise SetupProblem(f"BONAFIDE_API_URL or BONAFIDE_API_KEY cannot be used: {error}") from error


def submit(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or s3://bucket/key.", metavar="PATH…")],
    source: Annotated[
        str | None,
        typer.Option(help="The part of the platform that flags.", show_default="the key's name"),
    ] = None,
    external_id: Annotated[
        str | None, typer.Option(help="Your id for the upload; for one image only.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why the images are flagged.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=100, help="Higher is looked at sooner.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the verdicts and show them.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 300,
    json_: AsJson = False,
) -> None:
    """Flag images. Files are uploaded first; s3:// images are read where they lie."""
    found, empty = _places(images)
    if external_id is not None and len(found) != 1:
        raise typer.BadParameter("an external id names one image", param_hint="--external-id")
    flag: dict[str, Any] = {
        "source": source,
        "external_id": external_id,
        "reason": reason,
        "priority": priority,
    }
    opened: dict[UUID, str] = {}
    refused = 0
    with open_client() as client:
        for place in found:
            try:
                case = _submit_one(client, place, flag)
            except ApiProblem as problem:
                refused += 1
                typer.echo(f"bonafide: {place}: {problem} ({problem.code})", err=True)
                continue
            opened[case] = str(place)
            if not json_:
                typer.echo(f"{case}  {place}")
        if wait or json_:
            done = [client.wait(case, timeout=timeout) if wait else client.case(case) for case in opened]
            print_verdicts(done, opened, as_json=json_)
    if opened and not wait and not json_:
        some = next(iter(opened))
        typer.echo(
            f"Follow a case with `bonafide status {some} --wait`; `bonafide cases` lists them all.", err=True
        )
    if refused:
        typer.echo(f"bonafide: {refused} of {len(found)} images were refused", err=True)
    if refused or empty:
        raise typer.Exit(1)


def _places(images: Iterable[str]) -> tuple[list[Path | str], bool]:
    """The images to flag, and whether a folder was empty."""
    found: list[Path | str] = []
    empty = False
    for image in images:
        if image.startswith("s3://"):
            found.append(image)
            continue
        if not Path(image).exists():
            raise typer.BadParameter(f"there is no file {image}")
        inside, nothing = pictures_of([Path(image)])
        found += inside
        empty = nothing or empty
    return found, empty


def _submit_one(client: BonaFide, place: Path | str, flag: dict[str, Any]) -> UUID:
    if isinstance(place, Path):
        return client.submit_file(place, **flag).id
    return client.submit(place, **flag).id


def status(
    case: Annotated[UUID, typer.Argument(help="A case's id.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at most.")] = 300,
    json_: AsJson = False,
) -> None:
    """Show one case."""
    with open_client() as client:
        found = client.wait(case, timeout=timeout) if wait else client.case(case)
    if json_:
        print_json_lines([found])
    else:
        print_case(found)


def withdraw(
    cases: Annotated[list[UUID], typer.Argument(help="Ids of cases.", metavar="CASE…")],
    json_: AsJson = False,
) -> None:
    """Withdraw images: their cases end without a decision, and nobody reviews them."""
    done: list[CaseOut] = []
    with open_client() as client:
        for case in cases:
            try:
                done.append(client.withdraw(case))
            except ApiProblem as problem:
                typer.echo(f"bonafide: {case}: {problem} ({problem.code})", err=True)
                continue
            if not json_:
                typer.echo(f"case {case} is withdrawn")
    if json_:
        print_json_lines(done)
    if len(done) < len(cases):
        raise typer.Exit(1)


def cases(
    state: Annotated[CaseState | None, typer.Option(help="Only cases in this state.")] = None,
    source: Annotated[str | None, typer.Option(help="Only cases of this source.")] = None,
    verdict: Annotated[
        str | None, typer.Option(help=f"Only cases with this verdict: {', '.join(_VERDICTS)}.")
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only cases with this decision.")] = None,
    find: Annotated[
        str | None,
        typer.Option(
            help="Only cases that this finds: an id or its beginning, a key, a sha256, a word of the context."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 1000,
    json_: AsJson = False,
) -> None:
    """List cases, newest first."""
    if verdict is not None and verdict not in _VERDICTS:
        raise typer.BadParameter(f"it is one of {', '.join(_VERDICTS)}", param_hint="--verdict")
    if find is not None and (state, verdict, outcome) != (None, None, None):
        raise typer.BadParameter("only --source may go with it", param_hint="--find")
    with open_client() as client:
        fitting = (
            client.cases(state=state, source=source, verdict=verdict, outcome=outcome)
            if find is None
            else client.search(find, source=source)
        )
        found = list(islice(fitting, limit))
    if json_:
        print_json_lines(found)
    elif found:
        print_cases(found)
    else:
        typer.echo("bonafide: no case fits", err=True)
