"""What a platform engineer does: submit, show, wait, state reasons, appeal, withdraw. All goes through the API."""

import json
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import UUID

import typer

from moderation.analysis import Label, Technique
from moderation.cases import CaseState
from moderation.cli.operate import in_utc, moment
from moderation.cli.pictures import pictures_of
from moderation.cli.printing import (
    AsJson,
    OneObject,
    complain,
    print_case,
    print_cases,
    print_json,
    print_json_lines,
    print_object,
    print_statement,
    print_verdicts,
)
from moderation.client import ApiProblem, BonaFide
from moderation.decisions import Outcome
from moderation.errors import SetupProblem
from moderation.reports.statements import Harm, Origin, Restriction
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
        str | None, typer.Option(help="The part of the platform that flags.", show_default="the key's name")
    ] = None,
    external_id: Annotated[
        str | None, typer.Option(help="Your id for the upload; for one image only.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why the images are flagged.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=100, help="Higher is looked at sooner.")] = 0,
    context: Annotated[
        str | None, typer.Option(help="A JSON object of yours, up to 4 KB. It only comes back to you.")
    ] = None,
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
        "context": None if context is None else _object(context),
    }
    opened: dict[UUID, str] = {}
    refused = 0
    with open_client() as client:
        for place in found:
            try:
                case = _submit_one(client, place, flag)
            except ApiProblem as problem:
                refused += 1
                complain(f"{place}: {problem} ({problem.code})")
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
        complain(f"{refused} of {len(found)} images were refused")
    if refused or empty:
        raise typer.Exit(1)


def _object(text: str) -> dict[str, Any]:
    """The object of `--context`. Python reads more as JSON than it may send: NaN, and half of a character."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="--context") from error
    if not isinstance(found, dict):
        raise typer.BadParameter("it is not a JSON object", param_hint="--context")
    return cast("dict[str, Any]", found)


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


def statement(
    case: Annotated[UUID, typer.Argument(help="A decided case.")],
    restriction: Annotated[
        Restriction, typer.Option(help="What you do to the image.")
    ] = Restriction.LABELLED,
    harm: Annotated[Harm, typer.Option(help="What is wrong with this deepfake.")] = Harm.TERMS,
    origin: Annotated[Origin, typer.Option(help="How you came to know of it.")] = Origin.VOLUNTARY,
    json_: OneObject = False,
) -> None:
    """Draft a statement of reasons (DSA, art. 17) for a case's decision. Nothing is sent anywhere."""
    with open_client() as client:
        draft = client.statement(case, restriction=restriction, harm=harm, origin=origin)
    if json_:
        print_json(draft.model_dump(mode="json"))
    else:
        print_statement(draft)


def appeal(
    case: Annotated[UUID, typer.Argument(help="A decided case.")],
    reason: Annotated[str, typer.Argument(help="Why the uploader asks for another decision.")],
    external_id: Annotated[
        str | None, typer.Option(help="Your id of the appeal. The same again is the same appeal.")
    ] = None,
    json_: OneObject = False,
) -> None:
    """Submit the uploader's appeal: a person who has not decided the case before decides it."""
    with open_client() as client:
        made = client.appeal(case, reason, external_id=external_id)
    print_object(made.model_dump(mode="json"), f"case {case} is appealed: {made.id}", as_json=json_)


def withdraw(
    cases: Annotated[list[UUID], typer.Argument(help="Ids of cases.", metavar="CASE…")], json_: AsJson = False
) -> None:
    """Withdraw images: their cases end without a decision, and nobody reviews them."""
    done: list[CaseOut] = []
    with open_client() as client:
        for case in cases:
            try:
                done.append(client.withdraw(case))
            except ApiProblem as problem:
                complain(f"{case}: {problem} ({problem.code})")
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
    external_id: Annotated[
        str | None,
        typer.Option(help="Only the case of this id of yours; without --source, under the key's name."),
    ] = None,
    since: Annotated[datetime | None, moment("Only cases opened at or after this time, UTC.")] = None,
    until: Annotated[datetime | None, moment("Only cases opened before this time, UTC.")] = None,
    verdict: Annotated[
        str | None, typer.Option(help=f"Only cases with this verdict: {', '.join(_VERDICTS)}.")
    ] = None,
    technique: Annotated[
        Technique | None, typer.Option(help="Only cases whose verdict names this technique.")
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Only cases with this decision.")] = None,
    decided_since: Annotated[
        datetime | None, moment("Only cases decided at or after this time, UTC.")
    ] = None,
    decided_until: Annotated[datetime | None, moment("Only cases decided before this time, UTC.")] = None,
    find: Annotated[
        str | None,
        typer.Option(
            help="Only cases that this finds: an id or its beginning, a key, a sha256, a word of the context."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 1000,
    json_: AsJson = False,
) -> None:
    """List cases, newest first. With a decision or its time: the last decided ones first."""
    if verdict is not None and verdict not in _VERDICTS:
        raise typer.BadParameter(f"it is one of {', '.join(_VERDICTS)}", param_hint="--verdict")
    wanted: dict[str, Any] = {
        "state": state,
        "external_id": external_id,
        "since": in_utc(since),
        "until": in_utc(until),
        "verdict": verdict,
        "technique": technique,
        "outcome": outcome,
        "decided_since": in_utc(decided_since),
        "decided_until": in_utc(decided_until),
    }
    if find is not None and any(value is not None for value in wanted.values()):
        raise typer.BadParameter("only --source may go with it", param_hint="--find")
    with open_client() as client:
        fitting = (
            client.cases(source=source, **wanted) if find is None else client.search(find, source=source)
        )
        found = list(islice(fitting, limit))
    if json_:
        print_json_lines(found)
    elif found:
        print_cases(found)
    else:
        complain("no case fits")
