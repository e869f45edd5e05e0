"""Drafts of statements of reasons, held to the rules of the transparency database's own validator."""

import itertools
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from moderation.analysis import Label, Technique
from moderation.cases import Stage
from moderation.decisions import Decision, Outcome
from moderation.reports.statements import Harm, Origin, Restriction, StatementDraft, statement
from tests.builders import new_id

FLAGGED = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
DECIDED = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)
SECRETS = ("Grace Hopper", "the left eye of Ada", "clause 7 about Ada")

#: Written down here a second time, from the API documentation: the code is not its own witness.
VISIBILITIES = {
    f"DECISION_VISIBILITY_CONTENT_{name}"
    for name in ("REMOVED", "DISABLED", "DEMOTED", "AGE_RESTRICTED", "INTERACTION_RESTRICTED", "LABELLED")
} | {"DECISION_VISIBILITY_OTHER"}
CATEGORIES = {
    f"STATEMENT_CATEGORY_{name}"
    for name in (
        "ANIMAL_WELFARE",
        "CONSUMER_INFORMATION",
        "CYBER_VIOLENCE",
        "CYBER_VIOLENCE_AGAINST_WOMEN",
        "DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
        "ILLEGAL_OR_HARMFUL_SPEECH",
        "INTELLECTUAL_PROPERTY_INFRINGEMENTS",
        "NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
        "NOT_SPECIFIED_NOTICE",
        "OTHER_VIOLATION_TC",
        "PROTECTION_OF_MINORS",
        "RISK_FOR_PUBLIC_SECURITY",
        "SCAMS_AND_FRAUD",
        "SELF_HARM",
        "UNSAFE_AND_PROHIBITED_PRODUCTS",
        "VIOLENCE",
    )
}
KEYWORDS = {
    "KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE": "CYBER_VIOLENCE",
    "KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE_AGAINST_WOMEN": "CYBER_VIOLENCE_AGAINST_WOMEN",
    "KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL_DEEPFAKE": "PROTECTION_OF_MINORS",
    "KEYWORD_IMPERSONATION_ACCOUNT_HIJACKING": "SCAMS_AND_FRAUD",
    "KEYWORD_MISINFORMATION_DISINFORMATION": "NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
}
SOURCE_TYPES = {
    "SOURCE_ARTICLE_16",
    "SOURCE_TRUSTED_FLAGGER",
    "SOURCE_VOLUNTARY",
    "SOURCE_TYPE_OTHER_NOTIFICATION",
}
AUTOMATED_DECISIONS = {
    "AUTOMATED_DECISION_FULLY",
    "AUTOMATED_DECISION_PARTIALLY",
    "AUTOMATED_DECISION_NOT_AUTOMATED",
}


def a_decision(**fields: Any) -> Decision:
    values: dict[str, Any] = {
        "id": new_id(),
        "case_id": new_id(),
        "stage": Stage.FIRST,
        "outcome": Outcome.DEEPFAKE,
        "technique": None,
        "reason": SECRETS[1],
        "policy": SECRETS[2],
        "reviewer_id": new_id(),
        "reviewer": SECRETS[0],
        "analysis_id": new_id(),
        "verdict": Label.DEEPFAKE,
        "blind_outcome": None,
        "blind_technique": None,
        "saw_verdict_first": True,
        "seconds": 12.0,
        "created_at": DECIDED,
        "final_at": DECIDED,
        **fields,
    }
    return Decision(**values)


def every_decision() -> list[Decision]:
    labels: list[Label | None] = [*Label, None]
    techniques: list[Technique | None] = [*Technique, None]
    return [
        a_decision(stage=stage, outcome=outcome, verdict=label, technique=technique)
        for stage, outcome, label, technique in itertools.product(Stage, Outcome, labels, techniques)
        if technique is None or outcome is Outcome.DEEPFAKE
    ]


def every_draft() -> list[tuple[Decision, StatementDraft]]:
    return [
        (
            decision,
            statement(decision, flagged_at=FLAGGED, restriction=restriction, harm=harm, origin=origin),
        )
        for decision in every_decision()
        for restriction, harm, origin in itertools.product(Restriction, Harm, Origin)
    ]


def check(sent: dict[str, Any]) -> None:
    """The validator's rules."""
    assert re.fullmatch(r"[A-Za-z0-9\-_]{1,500}", sent["puid"])
    assert sent["decision_visibility"]
    assert set(sent["decision_visibility"]) <= VISIBILITIES
    assert sent["decision_ground"] == "DECISION_GROUND_INCOMPATIBLE_CONTENT"
    assert 0 < len(sent["incompatible_content_ground"]) <= 500
    assert 0 < len(sent["incompatible_content_explanation"]) <= 2000
    assert sent["incompatible_content_illegal"] in {"Yes", "No"}
    assert sent["category"] in CATEGORIES
    for keyword in sent["category_specification"]:
        assert sent["category"] == f"STATEMENT_CATEGORY_{KEYWORDS[keyword]}"
    assert sent["content_type"] == ["CONTENT_TYPE_IMAGE", "CONTENT_TYPE_SYNTHETIC_MEDIA"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", sent["content_date"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", sent["application_date"])
    assert 0 < len(sent["decision_facts"]) <= 5000
    assert sent["source_type"] in SOURCE_TYPES
    assert sent["automated_detection"] in {"Yes", "No"}
    assert sent["automated_decision"] in AUTOMATED_DECISIONS


def test_every_draft_passes_the_rules_of_the_transparency_database() -> None:
    for decision, draft in every_draft():
        assert (draft.statement is not None) is (decision.outcome is Outcome.DEEPFAKE)
        if draft.statement is not None:
            check(dict(draft.statement))
            assert set(draft.to_check) - {"territorial_scope"} <= set(draft.statement)


def test_no_word_of_a_person_gets_into_any_draft() -> None:
    for decision, draft in every_draft():
        everything = repr(draft)
        for secret in (*SECRETS, str(decision.reviewer_id)):
            assert secret not in everything


def test_facts_say_what_happened_and_in_different_words_when_it_was_different() -> None:
    told = {
        (decision.stage, decision.outcome, decision.verdict, decision.technique): statement(
            decision, flagged_at=FLAGGED
        ).facts
        for decision in every_decision()
    }

    assert len(set(told.values())) == len(told)
    assert told[Stage.APPEAL, Outcome.DEEPFAKE, Label.BONA_FIDE, Technique.FS] == (
        "An image was flagged for review. An automated analysis did not indicate a deepfake. After an appeal, a person"
        " who had not decided before looked at the image and decided. The decision is that the image is a deepfake."
        " The technique is face swapping."
    )


@pytest.mark.parametrize(
    ("verdict", "detected", "decided"),
    [
        pytest.param(Label.DEEPFAKE, "Yes", "AUTOMATED_DECISION_PARTIALLY", id="the model said so first"),
        pytest.param(Label.BONA_FIDE, "No", "AUTOMATED_DECISION_PARTIALLY", id="the model said otherwise"),
        pytest.param(None, "No", "AUTOMATED_DECISION_NOT_AUTOMATED", id="no model"),
    ],
)
def test_the_part_of_the_machine_is_stated(verdict: Label | None, detected: str, decided: str) -> None:
    sent = statement(a_decision(verdict=verdict), flagged_at=FLAGGED).statement

    assert sent is not None
    assert (sent["automated_detection"], sent["automated_decision"]) == (detected, decided)
    assert (sent["content_date"], sent["application_date"]) == ("2026-11-20", "2026-11-23")
