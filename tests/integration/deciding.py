"""Reviewers at work, for tests about what comes of it."""

from uuid import UUID

from moderation.analysis import Technique
from moderation.database.connection import Database
from moderation.decisions import Answer, ArtifactAnswer, Decision, Judgement, Outcome
from moderation.people import Person
from moderation.review import Review
from moderation.settings import Settings
from tests.integration.conftest import stored


def a_review(database: Database, settings: Settings, **fields: object) -> Review:
    """Nothing is sampled, nothing can be undone and no reason is needed unless the test says so."""
    values = {
        "blind_first_share": 0.0,
        "second_review_share": 0.0,
        "undo_seconds": 0.0,
        "reason_required": "never",
        **fields,
    }
    return Review(database, settings.model_copy(update=values))


def decide(
    review: Review,
    database: Database,
    person: Person,
    case_id: UUID,
    outcome: Outcome,
    technique: Technique | None = None,
    *,
    blind: Outcome | None = None,
    answers: tuple[Answer, ...] = (),
    policy: str | None = None,
) -> Decision:
    """Claim a case and decide it; `answers` are about the artifacts of its first face, in order."""
    claim = review.claim(person, case_id)
    if blind is not None:
        review.judge_blind(person, case_id, blind)
    feedback = tuple(ArtifactAnswer(0, ordinal, answer) for ordinal, answer in enumerate(answers, start=1))
    return review.decide(
        person,
        case_id,
        token=claim.token,
        version=stored(database, case_id).version,
        judgement=Judgement(outcome, technique, reason="because", policy=policy, feedback=feedback),
    )
