"""What a platform engineer does: submit, look, wait. All of it through the API, as a platform would."""

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from moderation.cases import CaseState, ImageRef
from moderation.cli.show import print_json_lines, verdict_table
from moderation.client import ApiProblem, BonaFide
from moderation.errors import SetupProblem
from moderation.settings import settings
from moderation.wire import CaseOut

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def open_client() -> BonaFide:
    """The client for the API of the settings."""
    chosen = settings()
    if chosen.api_key is None:
        raise SetupProblem(
            "no API key: set BONAFIDE_API_KEY, or run this in the folder where `bonafide up` runs"
        )
    return BonaFide(chosen.api_url, chosen.api_key.get_secret_value())


def submit(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or s3://bucket/key.", metavar="PATH…")],
    source: Annotated[
        str | None, typer.Option(help="The part of the platform that flags. [default: the key's name]")
    ] = None,
    external_id: Annotated[
        str | None, typer.Option(help="Your id of the upload; for one image only.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why it is flagged.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=100, help="The higher is looked at sooner.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the verdicts and show them.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at the most.")] = 300,
    json_: AsJson = False,
) -> None:
    """Flag images: files are uploaded first, s3:// images are read where they lie."""
    found = [place for image in images for place in _places(image)]
    if external_id is not None and len(found) != 1:
        raise typer.BadParameter("an external id names one image", param_hint="--external-id")
    flag: dict[str, Any] = {
        "source": source,
        "external_id": external_id,
        "reason": reason,
        "priority": priority,
    }
    opened: dict[UUID, str] = {}
    failed = False
    with open_client() as client:
        for place in found:
            try:
                opened[_submit_one(client, place, flag)] = str(place)
            except ApiProblem as problem:
                failed = True
                typer.echo(f"bonafide: {place}: {problem} ({problem.code})", err=True)
        done = [client.wait(case, timeout=timeout) if wait else client.case(case) for case in opened]
    _show(done, opened, as_json=json_)
    if failed:
        raise typer.Exit(1)


def _places(image: str) -> list[Path | str]:
    if image.startswith("s3://"):
        return [image]
    path = Path(image)
    if path.is_dir():
        return [child for child in sorted(path.iterdir()) if child.is_file()]
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {image}")
    return [path]


def _submit_one(client: BonaFide, place: Path | str, flag: dict[str, Any]) -> UUID:
    if isinstance(place, Path):
        return client.submit_file(place, **flag).id
    return client.submit(object_at(place), **flag).id


def object_at(place: str) -> ImageRef:
    """What s3://bucket/key names."""
    bucket, _, key = place.removeprefix("s3://").partition("/")
    return ImageRef(bucket, key)


def status(
    case: Annotated[UUID, typer.Argument(help="A case's id.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is ready.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait at the most.")] = 300,
    json_: AsJson = False,
) -> None:
    """Show one case."""
    with open_client() as client:
        found = client.wait(case, timeout=timeout) if wait else client.case(case)
    _show([found], {}, as_json=json_)


def cases(
    state: Annotated[CaseState | None, typer.Option(help="Only cases in this state.")] = None,
    source: Annotated[str | None, typer.Option(help="Only cases of this source.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 1000,
    json_: AsJson = False,
) -> None:
    """List cases, the newest first."""
    with open_client() as client:
        found = [
            case for _, case in zip(range(limit), client.cases(state=state, source=source), strict=False)
        ]
    _show(found, {}, as_json=json_)


def _show(found: list[CaseOut], names: dict[UUID, str], *, as_json: bool) -> None:
    if as_json:
        print_json_lines(found, names or None)
        return
    Console().print(verdict_table(found, first_column="picture" if names else "case", names=names))
