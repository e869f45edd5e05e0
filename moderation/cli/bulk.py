"""`bonafide bulk`: flags a list of images in buckets, a thousand at a time."""

import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from moderation.cli import lists
from moderation.cli.cases import open_client
from moderation.cli.printing import complain, print_json
from moderation.client import BATCH, ApiProblem, BonaFide, image_at
from moderation.errors import SetupProblem
from moderation.wire import CaseIn, field_name, what_is_wrong

_console = Console(stderr=True, highlight=False)

#: Endings of files whose lines are JSON, even if the first is not.
_JSON = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Line:
    """One image of a list."""

    number: int
    #: The image's name in the list, as far as it can be read.
    named: str
    flag: CaseIn | None
    problem: str | None = None


def bulk(
    file: Annotated[
        Path,
        typer.Argument(
            help="JSON lines, or a .csv or .tsv with a header; - reads JSON lines from standard input."
        ),
    ],
    source: Annotated[
        str | None, typer.Option(help="For lines without a source.", show_default="the key's name")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="For lines without one.")] = None,
    priority: Annotated[int, typer.Option(min=0, max=100, help="For lines without one.")] = 0,
    json_: Annotated[
        bool, typer.Option("--json", help="The outcome of each line, one JSON object a line.")
    ] = False,
) -> None:
    """Flag a list of images in buckets. Running it again opens no case twice.

    Each line needs `image` (s3://bucket/key, or an object with bucket, key and version_id) and `external_id`, your id
    for the upload. It may have `source`, `reason`, `priority` and `context`, as `POST /v1/cases` takes them.
    """
    usual = {"source": source, "reason": reason, "priority": priority}
    counts = {"opened": 0, "known": 0, "refused": 0}
    with open_client() as client, lists.opened(file) as lines, _console.status("Flagging …") as status:
        read = _read(lines, file, usual)
        while page := _page(read, file):
            for line, told in _flagged(client, page):
                counts[told["became"]] += 1
                _tell(line, told, as_json=json_)
            status.update(f"Flagging: {sum(counts.values()):,} lines")
    _console.print(", ".join(f"{count:,} {word}" for word, count in counts.items()))
    if counts["refused"]:
        raise typer.Exit(1)


def _page(read: Iterator[Line], file: Path) -> list[Line]:
    try:
        return list(islice(read, BATCH))
    except UnicodeError as error:
        raise SetupProblem(
            f"{file} cannot be read as UTF-8 or UTF-16 text: {error}; a spreadsheet saves it as “CSV UTF-8”"
        ) from error
    except csv.Error as error:
        raise SetupProblem(f"{file} cannot be read as CSV: {error}") from error


def _read(lines: IO[str], file: Path, usual: Mapping[str, Any]) -> Iterator[Line]:
    if file.suffix.lower() in (".csv", ".tsv"):
        return (_line(number, cells, usual) for number, cells in lists.rows(lines, file))
    return _read_json(lines, file, usual)


def _read_json(lines: IO[str], file: Path, usual: Mapping[str, Any]) -> Iterator[Line]:
    known = file.suffix.lower() in _JSON or str(file) == "-"
    for number, text in enumerate(lines, start=1):
        if text.strip():
            try:
                fields = json.loads(text)
            except (ValueError, RecursionError) as error:
                if not known:
                    raise SetupProblem(
                        f"{file} does not hold JSON lines; a table's name ends in .csv or .tsv"
                    ) from error
                yield Line(number, text.strip()[:80], None, f"not JSON: {error}")
                continue
            known = True
            yield _line(number, fields, usual)


def _line(number: int, fields: object, usual: Mapping[str, Any]) -> Line:
    if not isinstance(fields, dict):
        return Line(number, str(fields)[:80], None, "not an object")
    known: dict[str, Any] = fields
    named = str(known.get("external_id") or known.get("image"))[:200]
    if not known.get("external_id"):
        return Line(
            number, named, None, "external_id is missing: without it another run opens the case again"
        )
    image = known.get("image")
    if isinstance(image, str) and not image.startswith("s3://"):
        return Line(number, named, None, "image is not s3://bucket/key")
    try:
        flag = CaseIn.model_validate({**usual, **known, "image": _image(image)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return Line(number, named, None, f"{field_name(first['loc'])} {what_is_wrong(first)}")
    return Line(number, named, flag)


def _image(image: object) -> object:
    """The image as `CaseIn` takes it. `CaseIn` refuses what is neither text nor an object."""
    return asdict(image_at(image)) if isinstance(image, str) else image


def _flagged(client: BonaFide, page: Sequence[Line]) -> Iterator[tuple[Line, dict[str, Any]]]:
    """The outcome of each line, in order: opened, known or refused."""
    flags = [line.flag.model_dump(mode="json", exclude_none=True) for line in page if line.flag is not None]
    outcomes = iter(_patiently(client, flags))
    for line in page:
        if line.flag is None:
            yield line, {"became": "refused", "code": "line_unreadable", "detail": line.problem}
            continue
        outcome = next(outcomes)
        if outcome.case is None:
            problem = outcome.problem
            assert problem is not None, "an item is a case or a problem"
            yield line, {"became": "refused", "code": problem.code, "detail": problem.detail}
        else:
            became = "opened" if outcome.status == 202 else "known"
            yield line, {"became": became, "id": str(outcome.case.id), "state": outcome.case.state}


def _patiently(client: BonaFide, flags: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """The outcomes of a batch. When the API says to wait, we wait, however long."""
    while True:
        try:
            return list(client.submit_many(flags))
        except ApiProblem as problem:
            if problem.retry_after is None:
                raise
            time.sleep(problem.retry_after)


def _tell(line: Line, told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        external_id = None if line.flag is None else line.flag.external_id
        print_json({"line": line.number, "external_id": external_id, **told})
    elif told["became"] == "refused":
        complain(f"line {line.number}: {line.named}: {told['detail']} ({told['code']})")
