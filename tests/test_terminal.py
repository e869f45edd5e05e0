"""What commands print for people, at eighty columns: nothing is cut that somebody must copy."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from typer.main import get_command
from typer.testing import CliRunner

from moderation.cli.main import app
from moderation.cli.printing import (
    OF_OTHERS,
    UNCALIBRATED,
    print_case,
    print_cases,
    print_rows,
    print_table,
    verdict_table,
)
from moderation.wire import CaseOut

VERDICT = {
    "label": "deepfake",
    "score": 0.93,
    "margin": 2.6,
    "answer_mass": 1.0,
    "calibrated": True,
    "technique": "FR",
    "technique_scores": None,
    "abstain": None,
}
MOMENT = "2026-11-28T18:51:00Z"
DECISION = {
    "id": str(uuid4()),
    "outcome": "deepfake",
    "technique": "FR",
    "stage": "first",
    "reason": "the lips do not meet",
    "policy": None,
    "decided_at": "2026-11-29T08:00:00Z",
    "final_at": MOMENT,
}
ARTIFACT = {"region": "Mouth", "regions": ["mouth"], "text": "The lower lip is blurred.", "polygon": None}


def a_case(**fields: Any) -> CaseOut:
    usual = {
        "id": str(uuid4()),
        "state": "ready",
        "source": "avatars",
        "external_id": "photo-1",
        "reason": "user report",
        "priority": 7,
        "context": None,
        "created_at": MOMENT,
        "ready_at": MOMENT,
        "image": {"bucket": "flagged", "key": "a.jpg"},
        "attempts": 1,
        "version": 3,
        "stage": "first",
        "verdict": VERDICT,
        "rationale": [ARTIFACT],
        "faces": [],
        "picture": None,
        "timings": None,
        "refusal": None,
        "refusal_message": None,
        "fingerprint": "f",
        "bundle": "small 1",
        "reused_from": None,
        "decision": None,
        "links": {"self": "/"},
    }
    return CaseOut.model_validate({**usual, **fields})


CASES = [
    a_case(),
    a_case(state="decided", decision=DECISION),
    a_case(
        verdict=None, rationale=[], refusal="storage_unavailable", refusal_message="storage was away " * 9
    ),
    a_case(state="analyzing", verdict=None, rationale=[]),
    a_case(verdict={**VERDICT, "label": "undetermined", "technique": None, "abstain": "near_threshold"}),
    a_case(source="写真" * 60, external_id="no-spaces-" * 20),
    a_case(source="[bold]not ours[/]", external_id="[/]", reason="[red]"),
]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def _printed(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= 80
    return out


def test_a_list_of_cases_shows_whole_ids_states_decisions_sources_and_times(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_cases(CASES)

    out = _printed(capsys)
    for case in CASES:
        assert str(case.id) in out
    for words in (
        "analyzing",
        "deepfake 0.93",
        "face reenactment",
        "deepfake FR",
        "2026-11-28 18:51",
        "photo-1",
    ):
        assert words in out
    assert "[bold]not ours[/]" in out
    assert "· [/]" in out


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_one_case_is_shown_whole(capsys: pytest.CaptureFixture[str], case: CaseOut) -> None:
    print_case(case)

    out = _printed(capsys)
    for words in (str(case.id), case.state, "flagged", "s3://flagged/a.jpg", "decision"):
        assert words in out


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        pytest.param(True, "a probability; calibrated on avatars", id="of a source it was fitted to"),
        pytest.param(False, "orders cases, no probability here; calibrated on avatars", id="of another"),
    ],
)
def test_a_score_is_shown_with_what_it_was_calibrated_on(
    capsys: pytest.CaptureFixture[str], *, holds: bool, said: str
) -> None:
    print_case(a_case(verdict={**VERDICT, "calibrated_on": "avatars", "is_probability": holds}))

    assert said in _printed(capsys)


def test_a_decision_is_shown_with_its_reason_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    print_case(CASES[1])

    out = _printed(capsys)
    assert "deepfake FR, 2026-11-29 08:00" in out
    assert "the lips do not meet" in out


def test_verdicts_fit_beside_a_long_name(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[UUID, str] = {case.id: "a-very-long-name-of-a-picture" * 4 + ".jpg" for case in CASES}

    Console().print(verdict_table(CASES, first_column="picture", names=names))

    assert "deepfake 0.93" in _printed(capsys)


def test_a_list_that_is_too_wide_becomes_records_and_loses_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = [str(uuid4()), "https://hooks.example.org/" + "x" * 90, "case.analyzed case.decided", "all", ""]
    table = Table("id", "url", "kinds", "source", "disabled")
    for _ in range(2):
        table.add_row(*cells)

    print_table(table)

    out = _printed(capsys)
    assert out.count(cells[0]) == 2
    assert "".join(out.split()).count("x" * 90) == 2
    assert "disabled" not in out  # what is empty is left out


def test_a_list_that_fits_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("id", "name")
    table.add_row(str(uuid4()), "short")

    print_table(table)

    assert "┃ id" in _printed(capsys)


@dataclass(frozen=True)
class Key:
    name: str
    scopes: tuple[str, ...]
    calls: int
    made: datetime
    revoked: datetime | None


KEYS = [
    Key("[bold]avatars[/]", ("read", "submit"), 12_345, datetime(2026, 11, 28, 18, 51, 7, tzinfo=UTC), None)
]


def test_a_list_is_told_to_people_by_its_columns_and_to_machines_by_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = {"name": "name", "scopes": "scopes", "made": "made", "revoked": "revoked", "calls": "calls"}

    print_rows(KEYS, {**columns, "often": lambda key: "yes" if key.calls > 100 else "no"}, as_json=False)
    for_people = _printed(capsys)
    print_rows(KEYS, columns, as_json=True)
    for_machines = capsys.readouterr().out

    for words in ("[bold]avatars[/]", "read submit", "2026-11-28 18:51", "12,345", "often"):
        assert words in for_people
    assert "None" not in for_people
    assert [json.loads(line) for line in for_machines.splitlines()] == [
        {
            "name": "[bold]avatars[/]",
            "scopes": ["read", "submit"],
            "calls": 12345,
            "made": "2026-11-28 18:51:07+00:00",
            "revoked": None,
        }
    ]


@pytest.mark.parametrize(
    ("calibrated", "holds", "caption"),
    [
        pytest.param(True, True, None, id="a probability"),
        pytest.param(True, False, OF_OTHERS, id="calibrated on other sources"),
        pytest.param(False, False, UNCALIBRATED, id="not calibrated"),
    ],
)
def test_a_table_says_below_why_its_scores_are_no_probabilities(
    calibrated: bool,
    holds: bool,
    caption: str | None,
) -> None:
    case = a_case(verdict={**VERDICT, "calibrated": calibrated, "is_probability": holds})

    assert verdict_table([case, case], first_column="picture", names={}).caption == caption


# --- help


def _commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, *path, name)


@pytest.mark.parametrize(
    ("path", "command"),
    [pytest.param(path, command, id=" ".join(path)) for path, command in _commands(get_command(app))],
)
def test_a_help_text_keeps_its_brackets_and_its_defaults(path: tuple[str, ...], command: Any) -> None:
    texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    bracketed = {words for text in texts for words in re.findall(r"\[[^\]]+\]", text or "")}
    shown = (getattr(parameter, "show_default", None) for parameter in command.params)
    defaults = {words for words in shown if isinstance(words, str)}

    told = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "400"}).stdout

    assert [words for words in bracketed | defaults if words not in told] == []
