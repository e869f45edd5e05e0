"""Prints cases and lists: tables for a terminal of eighty columns, or one JSON object a line."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import UUID

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from moderation.analysis import Abstain, Label
from moderation.wire import CaseOut, StatementOut, VerdictOut

#: Letters of an id. Ids are never cut.
ID_WIDTH = 36

_COLOURS = {Label.DEEPFAKE: "red", Label.BONA_FIDE: "green", Label.UNDETERMINED: "yellow"}

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
OneObject = Annotated[bool, typer.Option("--json", help="One JSON object.")]

Row = TypeVar("Row")
#: Each column's header, with the attribute of the row that it shows, or a function of the row.
Columns = Mapping[str, str | Callable[[Row], Any]]


# --- any list, any object


def print_rows(
    rows: Iterable[Row],
    columns: Columns[Row],
    *,
    as_json: bool,
    fields: Callable[[Any], Mapping[str, Any]] = asdict,
    wraps: bool = False,
) -> None:
    """Print a list: its columns for people, or each row's fields as one object a line for machines.

    With `wraps` it stays a table in a narrow terminal: its cells are sentences, which may be broken.
    """
    if as_json:
        for row in rows:
            print_json(fields(row))
    elif wraps:
        Console(highlight=False).print(table_of(rows, columns))
    else:
        print_table(table_of(rows, columns))


def print_object(fields: Mapping[str, Any], words: str, *, as_json: bool) -> None:
    """Print what a command did: a sentence for people, or an object for machines."""
    if as_json:
        print_json(fields)
    else:
        typer.echo(words)


def print_json(fields: Mapping[str, Any], *, ascii_only: bool = True) -> None:
    """Print one object on one line. Ids, times and paths are written as Python's `str` writes them."""
    typer.echo(json.dumps(fields, default=str, ensure_ascii=ascii_only))


def complain(words: str) -> None:
    """Print on standard error what went wrong."""
    typer.echo(f"bonafide: {words}", err=True)


def fail(words: str) -> NoReturn:
    """The same, and exit with 1."""
    complain(words)
    raise typer.Exit(1)


def table_of(rows: Iterable[Row], columns: Columns[Row]) -> Table:
    table = Table(*columns)
    for row in rows:
        found = (getattr(row, cell) if isinstance(cell, str) else cell(row) for cell in columns.values())
        table.add_row(*map(_shown, found))
    return table


def _shown(cell: Any) -> RenderableType:
    """Times to the minute, numbers in groups of three digits, None as nothing."""
    match cell:
        case None:
            return ""
        case Text():
            return cell
        case int():
            return f"{cell:,}"
        case datetime():
            return _moment(cell)
        case list() | tuple():
            return escape(" ".join(map(str, cell)))  # pyright: ignore[reportUnknownArgumentType]  words
        case _:
            return escape(str(cell))


def print_table(table: Table) -> None:
    """Print a table if the terminal is wide enough, else its rows one below the other: no id is cut."""
    console = Console(highlight=False)
    natural = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    if natural <= console.width:
        console.print(table)
        return
    for number, cells in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        console.print("", end="\n" if number else "")
        named = zip((column.header for column in table.columns), cells, strict=True)
        console.print(_record((header, cell) for header, cell in named if cell != ""))
    if table.caption:
        console.print(f"[dim]{table.caption}[/]")


def _record(fields: Iterable[tuple[RenderableType, RenderableType]]) -> Table:
    """Names and values, one below the other. A long value continues on the next line."""
    record = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    for name, value in fields:
        record.add_row(name, value)
    return record


def print_cases(cases: Iterable[CaseOut]) -> None:
    """Print two lines a case: id, state, verdict and decision; then when and where it came from."""
    table = Table(
        Column("case", width=ID_WIDTH, overflow="fold"),
        Column("state", no_wrap=True),
        "verdict",
        "decision",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for case in cases:
        came = escape(" · ".join(filter(None, (_moment(case.created_at), case.source, case.external_id))))
        verdict, technique = _verdict_lines(case)
        known = "" if case.verdict is None and case.refusal is None else verdict
        table.add_row(str(case.id), case.state, known, "" if case.decision is None else _decided(case))
        table.add_row(f"[dim]{came}[/]", "", f"[dim]{technique}[/]", "")
    Console(highlight=False).print(table)


def print_json_lines(cases: Iterable[CaseOut], named: Mapping[UUID, str] | None = None) -> None:
    """Print one case a line. `named` adds the file that a case was made of."""
    for case in cases:
        if named is None:
            typer.echo(case.model_dump_json())
        else:
            print_json({"file": named.get(case.id), **case.model_dump(mode="json")})


def print_verdicts(cases: Sequence[CaseOut], names: Mapping[UUID, str], *, as_json: bool) -> None:
    """Print cases with the files that they were made of. `names` has the file of each id."""
    if as_json:
        print_json_lines(cases, names)
    elif cases:
        Console(highlight=False).print(verdict_table(cases, first_column="picture", names=names))


def print_case(case: CaseOut) -> None:
    """Print what a person wants to know of a case."""
    Console(highlight=False).print(_record(_fields(case)))


def print_statement(draft: StatementOut) -> None:
    """Print a draft of a statement: what happened, its fields, and what its sender must check in them."""
    console = Console(highlight=False)
    console.print(escape(draft.facts))
    if draft.statement is None:
        console.print("The decision restricts nothing: no statement is due.")
        return
    for title, fields in (("The statement", draft.statement), ("Check or complete", draft.to_check)):
        console.print(f"\n[bold]{title}[/]")
        console.print(_record((name, _shown(value)) for name, value in fields.items() if value != []))


def _fields(case: CaseOut) -> Iterator[tuple[str, str]]:
    yield "case", str(case.id)
    yield "state", case.state
    yield "source", escape(case.source)
    for name, value in (("external id", case.external_id), ("reason", case.reason)):
        if value is not None:
            yield name, escape(value)
    yield "flagged", f"{_moment(case.created_at)}, priority {case.priority}"
    if case.ready_at is not None:
        yield "ready", _moment(case.ready_at)
    yield "image", escape(f"s3://{case.image.bucket}/{case.image.key}")
    verdict, technique = _verdict_lines(case)
    word, _, _, said = _cells(case)
    if case.refusal is not None:
        yield "verdict", f"none: {word}" + (f", {said}" if said else "")
    elif case.verdict is None:
        yield "verdict", "none yet"
    else:
        why = said if case.verdict.abstain is not None else technique
        uncalibrated = "; not calibrated: the score only orders" if "~" in verdict else ""
        yield "verdict", f"{verdict}{f', {why}' if why else ''}{uncalibrated}"
        if case.verdict.calibrated_on is not None and _score(case.verdict):
            what = "a probability" if case.verdict.is_probability else "orders cases, no probability here"
            yield "score", escape(f"{what}; calibrated on {case.verdict.calibrated_on}")
    for artifact in case.rationale:
        yield "", escape(f"{artifact.region}: {artifact.text}")
    if case.bundle is not None:
        yield "bundle", escape(case.bundle)
    decision = case.decision
    yield "decision", "none yet" if decision is None else f"{_decided(case)}, {_moment(decision.decided_at)}"
    if decision is not None and decision.reason:
        yield "", escape(decision.reason)
    if case.archived is not None:
        yield "archived", escape(case.archived.place)
    if case.withdrawn_at is not None:
        yield "withdrawn", _moment(case.withdrawn_at)
    if case.erased_at is not None:
        yield "erased", _moment(case.erased_at)


def _decided(case: CaseOut) -> str:
    assert case.decision is not None
    technique = case.decision.technique
    return case.decision.outcome.replace("_", " ") + (f" {technique}" if technique else "")


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


#: Why a score is no probability: it was calibrated on pictures of other sources, or not at all.
OF_OTHERS = "Scores order cases, and are no probabilities: they were calibrated on other sources."
UNCALIBRATED = "~ not calibrated: the score only orders"


def verdict_table(cases: Iterable[CaseOut], *, first_column: str, names: Mapping[UUID, str]) -> Table:
    """Each picture with its verdict, score, technique and first artifact."""
    table = Table(
        Column(first_column, overflow="fold"),
        Column("verdict", min_width=18),
        "first artifact, or why there is no verdict",
    )
    notes = dict[str, None]()
    for case in cases:
        if case.verdict is not None and _score(case.verdict) and not case.verdict.is_probability:
            notes[OF_OTHERS if case.verdict.calibrated else UNCALIBRATED] = None
        verdict, technique = _verdict_lines(case)
        *_, said = _cells(case)
        lines = "\n".join(filter(None, (verdict, technique)))
        table.add_row(escape(Path(names.get(case.id, str(case.id))).name), lines, said)
    table.caption = "\n".join(notes) or None
    return table


def _verdict_lines(case: CaseOut) -> tuple[str, str]:
    """The verdict with its score, and its technique in words."""
    word, score, technique, _ = _cells(case)
    return f"{word} {score}".rstrip(), technique


def _score(verdict: VerdictOut) -> str:
    """Two decimals. `~` marks a score that only orders. Empty when the model did not answer."""
    if verdict.score is None or verdict.abstain not in (None, Abstain.NEAR_THRESHOLD):
        return ""
    return f"{'' if verdict.calibrated else '~'}{verdict.score:.2f}"


def _cells(case: CaseOut) -> tuple[str, str, str, str]:
    verdict = case.verdict
    if verdict is None:
        return (
            f"[dim]{escape((case.refusal or case.state).replace('_', ' '))}[/]",
            "",
            "",
            escape(case.refusal_message or ""),
        )
    word = f"[{_COLOURS[verdict.label]}]{verdict.label.replace('_', ' ')}[/]"
    score = _score(verdict)
    technique = "" if verdict.technique is None else verdict.technique.words
    first = case.rationale[0] if case.rationale else None
    if verdict.abstain is not None:
        said = verdict.abstain.words
    else:
        said = "" if first is None else escape(f"{first.region}: {first.text}")
    return word, score, technique, said + _not_all_faces(case, said)


def _not_all_faces(case: CaseOut, said: str) -> str:
    """How many faces were judged. Empty when all were."""
    if case.faces_found is None or case.faces_found == case.faces_judged:
        return ""
    return f"{' · ' if said else ''}{case.faces_judged} of {case.faces_found} faces judged"
