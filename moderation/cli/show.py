"""How cases and lists look in a terminal of eighty columns: for people, and one JSON object a line for machines."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

from moderation.analysis import Abstain, Label
from moderation.wire import CaseOut, VerdictOut

#: Letters of an id, which is never cut.
ID_WIDTH = 36

_COLOURS = {Label.DEEPFAKE: "red", Label.BONA_FIDE: "green", Label.UNDETERMINED: "yellow"}


def print_json_lines(cases: Iterable[CaseOut], named: dict[Any, str] | None = None) -> None:
    """One case a line. `named` adds the file a case was made of."""
    for case in cases:
        line = case.model_dump_json() if named is None else _with_file(case, named.get(case.id))
        typer.echo(line)


def _with_file(case: CaseOut, file: str | None) -> str:
    return json.dumps({"file": file, **case.model_dump(mode="json")})


def print_table(table: Table) -> None:
    """A table where the terminal is wide enough for it, otherwise its rows one below the other: no id is ever cut."""
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
    """Names and values, one below the other. What is too long for a line goes on in the next."""
    record = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 2))
    for name, value in fields:
        record.add_row(name, value)
    return record


def print_cases(cases: Iterable[CaseOut]) -> None:
    """Two lines a case: its id, state, verdict and decision; where it came from and when."""
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


def print_case(case: CaseOut) -> None:
    """All that a person wants to know of one case."""
    Console(highlight=False).print(_record(_fields(case)))


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


def verdict_table(cases: Iterable[CaseOut], *, first_column: str, names: dict[Any, str]) -> Table:
    """Picture, verdict with score and technique, first artifact: what a person wants to see at a glance."""
    table = Table(
        Column(first_column, overflow="fold"),
        Column("verdict", min_width=18),
        "first artifact, or why there is no verdict",
    )
    for case in cases:
        if case.verdict is not None and not case.verdict.calibrated and case.verdict.score is not None:
            table.caption = "~ not calibrated: the score only orders"
        verdict, technique = _verdict_lines(case)
        *_, said = _cells(case)
        lines = "\n".join(filter(None, (verdict, technique)))
        table.add_row(escape(Path(names.get(case.id, str(case.id))).name), lines, said)
    return table


def _verdict_lines(case: CaseOut) -> tuple[str, str]:
    """The verdict with its score, and its technique in words."""
    word, score, technique, _ = _cells(case)
    return f"{word} {score}".rstrip(), technique


def _score(verdict: VerdictOut) -> str:
    """Two decimals; `~` before a score that is no probability, only an order. Nothing when the model did not answer."""
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
    """How many faces the model was asked about. Nothing when it was asked about all that were found."""
    if case.faces_found is None or case.faces_found == case.faces_judged:
        return ""
    return f"{' · ' if said else ''}{case.faces_judged} of {case.faces_found} faces judged"
