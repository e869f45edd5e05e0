"""How cases look in a terminal: one table for people, one JSON object a line for machines."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from moderation.analysis import Abstain, Label
from moderation.wire import CaseOut, VerdictOut

_COLOURS = {Label.DEEPFAKE: "red", Label.BONA_FIDE: "green", Label.UNDETERMINED: "yellow"}


def print_json_lines(cases: Iterable[CaseOut], named: dict[Any, str] | None = None) -> None:
    """One case a line. `named` adds the file a case was made of."""
    for case in cases:
        line = case.model_dump_json() if named is None else _with_file(case, named.get(case.id))
        typer.echo(line)


def _with_file(case: CaseOut, file: str | None) -> str:
    return json.dumps({"file": file, **case.model_dump(mode="json")})


def verdict_table(cases: Iterable[CaseOut], *, first_column: str, names: dict[Any, str]) -> Table:
    """Picture, verdict, score, technique, first artifact: what a person wants to see at a glance."""
    first = Column(first_column, no_wrap=True)
    table = Table(first, "verdict", "score", "technique", "first artifact, or why there is no verdict")
    for case in cases:
        if case.verdict is not None and not case.verdict.calibrated and case.verdict.score is not None:
            table.caption = "~ not calibrated: the score only orders"
        table.add_row(escape(Path(names.get(case.id, str(case.id))).name), *_cells(case))
    return table


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
