"""What commands print for people, at eighty columns: nothing is cut that somebody must copy."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from moderation.cli.show import print_case, print_cases, print_table, verdict_table
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
    a_case(verdict=None, rationale=[], refusal="attempts_exhausted", refusal_message="storage was away " * 9),
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
