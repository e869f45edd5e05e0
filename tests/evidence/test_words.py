"""What a fact is, and what is not believed of whoever says it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from moderation.analysis import Abstain, Label, Verdict
from moderation.evidence.words import (
    LONGEST_LIST,
    LONGEST_TEXT,
    ClaimedOrigin,
    Evidence,
    Fact,
    FactKind,
    Strength,
    contradicts,
    declared,
    evidence_from_json,
    evidence_json,
    ordered,
    text,
    texts,
)

A_FACT = {"kind": "camera", "status": "found", "strength": "context", "points_to": None, "data": {}}


def test_what_is_written_is_read_back() -> None:
    fact = Fact(
        FactKind.GENERATOR,
        Strength.DECLARED,
        {"keys": ("a", "b"), "size": 3, "odd": True},
        ClaimedOrigin.SYNTHETIC,
    )
    evidence = Evidence((fact,), 0.25)

    assert evidence_from_json(json.loads(json.dumps(evidence_json(evidence)))) == evidence


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"facts": [A_FACT | {"kind": "magic"}], "seconds": 0}, id="a kind that we do not know"),
        pytest.param({"facts": []}, id="a part is missing"),
        pytest.param({"facts": [{}], "seconds": 0}, id="a fact without anything"),
        pytest.param({"facts": 3, "seconds": 0}, id="a number for a list"),
        pytest.param({"facts": [A_FACT] * 1000, "seconds": 0}, id="more than are ever gathered"),
        pytest.param({"facts": [A_FACT | {"data": {"A B": 1}}], "seconds": 0}, id="a name that is not ours"),
        pytest.param({"facts": [A_FACT | {"data": {"a": {}}}], "seconds": 0}, id="a value of another kind"),
        pytest.param({"facts": [A_FACT | {"data": {"a": float("nan")}}], "seconds": 0}, id="no number"),
        pytest.param({"facts": [A_FACT | {"data": {"a": 10**400}}], "seconds": 0}, id="a number without end"),
        pytest.param({"facts": [], "seconds": "long"}, id="words for a number"),
    ],
)
def test_a_child_that_was_taken_over_may_not_say_what_it_likes(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each says something else
        evidence_from_json(said)


@given(some.text(max_size=3 * LONGEST_TEXT))
def test_a_text_of_a_file_is_one_short_line_that_a_page_and_a_database_can_hold(said: str) -> None:
    kept = text(said)

    assert len(kept) <= LONGEST_TEXT
    assert kept.isprintable()
    assert text(kept) == kept


def test_a_list_of_a_file_is_short_and_says_nothing_twice() -> None:
    assert texts(["b", "a", "b", " ", "\0"]) == ("b", "a")
    assert len(texts([str(number) for number in range(1000)])) == LONGEST_LIST


SIGNED_CAPTURED = Fact(FactKind.CONTENT_CREDENTIALS, Strength.CRYPTOGRAPHIC, points_to=ClaimedOrigin.CAPTURED)
SAID_SYNTHETIC = Fact(FactKind.SOURCE_TYPE, Strength.DECLARED, points_to=ClaimedOrigin.SYNTHETIC)
ODD_SYNTHETIC = Fact(FactKind.THUMBNAIL, Strength.ANOMALY, points_to=ClaimedOrigin.SYNTHETIC)


def test_the_strongest_fact_declares_and_an_oddity_never_does() -> None:
    assert declared(Evidence((SAID_SYNTHETIC, SIGNED_CAPTURED))) == SIGNED_CAPTURED
    assert declared(Evidence((ODD_SYNTHETIC,))) is None
    assert ordered([ODD_SYNTHETIC, SAID_SYNTHETIC, SIGNED_CAPTURED])[0] == SIGNED_CAPTURED


@pytest.mark.parametrize(
    ("fact", "label", "conflict"),
    [
        pytest.param(SAID_SYNTHETIC, Label.BONA_FIDE, True, id="declared AI-made, called bona fide"),
        pytest.param(SAID_SYNTHETIC, Label.DEEPFAKE, False, id="declared AI-made, called a deepfake"),
        pytest.param(SAID_SYNTHETIC, Label.UNDETERMINED, False, id="the model does not say"),
        pytest.param(SIGNED_CAPTURED, Label.DEEPFAKE, True, id="signed as captured, called a deepfake"),
        pytest.param(
            Fact(FactKind.SOURCE_TYPE, Strength.DECLARED, points_to=ClaimedOrigin.CAPTURED),
            Label.DEEPFAKE,
            False,
            id="said to be captured: anybody can write that",
        ),
        pytest.param(ODD_SYNTHETIC, Label.BONA_FIDE, False, id="odd, and declared nothing"),
    ],
)
def test_a_conflict_is_between_a_declaration_and_a_verdict(fact: Fact, label: Label, conflict: bool) -> None:
    abstain = Abstain.NO_FACE if label is Label.UNDETERMINED else None

    assert contradicts(Evidence((fact,)), Verdict(label, abstain=abstain)) is conflict
