"""Drafts of statements of reasons (Digital Services Act, art. 17), in the fields of the EU's transparency database.

A draft has only fixed sentences: nothing that a person or the model wrote, no name, no description of a face. It says
what it cannot know, so that somebody can complete it. It is engineering, not legal advice.

Fields and values: https://transparency.dsa.ec.europa.eu/page/api-documentation, the version of July 2025.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from moderation.analysis import Label
from moderation.cases import Stage
from moderation.decisions import Decision, Outcome


class Restriction(enum.StrEnum):
    """What the platform does to the image. The platform decides that."""

    REMOVED = "removed"
    DISABLED = "disabled"
    DEMOTED = "demoted"
    AGE_RESTRICTED = "age_restricted"
    INTERACTION_RESTRICTED = "interaction_restricted"
    LABELLED = "labelled"


class Harm(enum.StrEnum):
    """The harm of this deepfake. Not every deepfake is harmful; the platform knows which rule it breaks."""

    #: Only against the platform's terms.
    TERMS = "terms"
    NON_CONSENSUAL = "non_consensual"
    NON_CONSENSUAL_WOMEN = "non_consensual_women"
    CHILD_ABUSE = "child_abuse"
    IMPERSONATION = "impersonation"
    DISINFORMATION = "disinformation"


class Origin(enum.StrEnum):
    """How the platform learned of the image."""

    VOLUNTARY = "voluntary"
    ARTICLE_16 = "article_16"
    TRUSTED_FLAGGER = "trusted_flagger"
    OTHER = "other"


#: Category and keyword for each harm.
CATEGORIES: Mapping[Harm, tuple[str, str | None]] = {
    Harm.TERMS: ("STATEMENT_CATEGORY_OTHER_VIOLATION_TC", None),
    Harm.NON_CONSENSUAL: ("STATEMENT_CATEGORY_CYBER_VIOLENCE", "KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE"),
    Harm.NON_CONSENSUAL_WOMEN: (
        "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
        "KEYWORD_NON_CONSENSUAL_MATERIAL_DEEPFAKE_AGAINST_WOMEN",
    ),
    Harm.CHILD_ABUSE: (
        "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
        "KEYWORD_CHILD_SEXUAL_ABUSE_MATERIAL_DEEPFAKE",
    ),
    Harm.IMPERSONATION: ("STATEMENT_CATEGORY_SCAMS_AND_FRAUD", "KEYWORD_IMPERSONATION_ACCOUNT_HIJACKING"),
    Harm.DISINFORMATION: (
        "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
        "KEYWORD_MISINFORMATION_DISINFORMATION",
    ),
}

SOURCES: Mapping[Origin, str] = {
    Origin.VOLUNTARY: "SOURCE_VOLUNTARY",
    Origin.ARTICLE_16: "SOURCE_ARTICLE_16",
    Origin.TRUSTED_FLAGGER: "SOURCE_TRUSTED_FLAGGER",
    Origin.OTHER: "SOURCE_TYPE_OTHER_NOTIFICATION",
}

_ANALYSIS: Mapping[Label | None, str] = {
    Label.DEEPFAKE: "An automated analysis indicated that a face in the image is a deepfake.",
    Label.BONA_FIDE: "An automated analysis did not indicate a deepfake.",
    Label.UNDETERMINED: "An automated analysis could not tell whether a face in the image is a deepfake.",
    None: "The image was not analysed by automated means.",
}

_REVIEW: Mapping[Stage, str] = {
    Stage.FIRST: "A person looked at the image and decided.",
    Stage.SECOND: "Two people looked at the image, one after the other, and decided.",
    Stage.ESCALATED: "A person with more authority looked at the image after another had, and decided.",
    Stage.APPEAL: "After an appeal, a person who had not decided before looked at the image and decided.",
}

_OUTCOME: Mapping[Outcome, str] = {
    Outcome.DEEPFAKE: "The decision is that the image is a deepfake.",
    Outcome.BONA_FIDE: "The decision is that the image is not a deepfake.",
    Outcome.CANNOT_TELL: "The decision is that it cannot be told whether the image is a deepfake.",
    Outcome.ESCALATE: "The image was passed on to a person with more authority; there is no decision yet.",
}


@dataclass(frozen=True)
class StatementDraft:
    """A statement of reasons to complete, or why none is due."""

    #: What happened, in fixed sentences.
    facts: str
    #: The fields of the transparency database. None when the decision restricts nothing: then no statement is due.
    statement: Mapping[str, Any] | None
    #: Fields that somebody must complete or confirm, and what each should say.
    to_check: Mapping[str, str] = field(default_factory=dict[str, str])


def facts(decision: Decision, evidence: Sequence[str] = ()) -> str:
    """What happened, in fixed sentences: `decision_facts`. `evidence`: its sentences that may be disclosed."""
    sentences = [
        "An image was flagged for review.",
        *evidence,
        _ANALYSIS[decision.verdict],
        _REVIEW[decision.stage],
        _OUTCOME[decision.outcome],
    ]
    if decision.technique is not None:
        sentences.append(f"The technique is {decision.technique.words}.")
    return " ".join(sentences)


def statement(
    decision: Decision,
    *,
    flagged_at: datetime,
    restriction: Restriction = Restriction.LABELLED,
    harm: Harm = Harm.TERMS,
    origin: Origin = Origin.VOLUNTARY,
    evidence: Sequence[str] = (),
) -> StatementDraft:
    """The draft for one decision. Only a deepfake is restricted; other outcomes need no statement."""
    if decision.outcome is not Outcome.DEEPFAKE:
        return StatementDraft(facts(decision, evidence), None)
    category, keyword = CATEGORIES[harm]
    analysed = decision.verdict is not None
    fields: dict[str, Any] = {
        "puid": f"bonafide-{decision.id}",
        "decision_visibility": [f"DECISION_VISIBILITY_CONTENT_{restriction.name}"],
        "decision_ground": "DECISION_GROUND_INCOMPATIBLE_CONTENT",
        "incompatible_content_ground": "Rules of the service on synthetic and manipulated media",
        "incompatible_content_explanation": "The image shows a face that was generated or manipulated by a computer.",
        "incompatible_content_illegal": "No",
        "category": category,
        "category_specification": [] if keyword is None else [keyword],
        "content_type": ["CONTENT_TYPE_IMAGE", "CONTENT_TYPE_SYNTHETIC_MEDIA"],
        "content_date": f"{flagged_at:%Y-%m-%d}",
        "application_date": f"{decision.created_at:%Y-%m-%d}",
        "decision_facts": facts(decision, evidence),
        "source_type": SOURCES[origin],
        "automated_detection": "Yes" if decision.verdict is Label.DEEPFAKE else "No",
        "automated_decision": "AUTOMATED_DECISION_PARTIALLY"
        if analysed
        else "AUTOMATED_DECISION_NOT_AUTOMATED",
    }
    return StatementDraft(fields["decision_facts"], fields, _TO_CHECK)


_TO_CHECK: Mapping[str, str] = {
    "decision_visibility": "what you did to the image; add decision_monetary, _provision or _account if you did that",
    "decision_ground": "DECISION_GROUND_ILLEGAL_CONTENT with its legal ground, if that is what you rely on",
    "incompatible_content_ground": "the clause of your terms, in its own words",
    "incompatible_content_illegal": "whether you also hold it illegal",
    "category": "what the deepfake does; without more it is a violation of your terms",
    "content_date": "the day of the upload: known to you, here it is the day of the flag",
    "application_date": "the day from which the restriction applies",
    "source_type": "how you came to know of the image; with a notifier also source_identity",
    "automated_detection": "Yes as well when automated means of yours found the image",
    "territorial_scope": "the member states it applies to, if not all",
}
