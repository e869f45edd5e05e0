"""What a person says about a case, and the rules of who may say it when. Models give verdicts, people make decisions.

Everything here computes on plain data. `moderation.review` carries it out.
"""

import enum
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Move, Stage, place_of
from moderation.errors import JudgementIncomplete, ReasonRequired, SameReviewer
from moderation.people import Act, Person, require


class Outcome(enum.StrEnum):
    DEEPFAKE = "deepfake"
    BONA_FIDE = "bona_fide"
    #: A person looked and cannot tell. That is a decision too.
    CANNOT_TELL = "cannot_tell"
    #: Somebody with more authority or knowledge should decide.
    ESCALATE = "escalate"


#: What a person says who agrees with the verdict.
_AGREEING = {
    Label.DEEPFAKE: Outcome.DEEPFAKE,
    Label.BONA_FIDE: Outcome.BONA_FIDE,
    Label.UNDETERMINED: Outcome.CANNOT_TELL,
}

#: In these reviews a share of cases is judged before the verdict is shown. Leads and appeals see everything at once.
BLIND_STAGES = frozenset({Stage.FIRST, Stage.SECOND})


class Answer(enum.StrEnum):
    """What a reviewer says about one artifact of a rationale."""

    AGREE = "agree"
    DISAGREE = "disagree"
    UNCLEAR = "unclear"


#: When a decision needs a reason in words. `disagreeing`: when it differs from the verdict, or nobody can tell.
ReasonPolicy = Literal["never", "disagreeing", "always"]


@dataclass(frozen=True)
class ArtifactAnswer:
    """Whether a reviewer sees one artifact that the shown analysis names."""

    face: int  # index into the analysis's faces
    ordinal: int  # from 1, in the model's order
    answer: Answer


@dataclass(frozen=True)
class Judgement:
    """What a reviewer says about a case, before it is a decision."""

    outcome: Outcome
    technique: Technique | None = None  # None unless DEEPFAKE, and when the reviewer does not say
    reason: str | None = None
    #: The rule of the platform that the decision rests on, in the platform's words.
    policy: str | None = None
    feedback: tuple[ArtifactAnswer, ...] = ()

    def __post_init__(self) -> None:
        if self.technique is not None and self.outcome is not Outcome.DEEPFAKE:
            raise JudgementIncomplete(f"only a deepfake has a technique, not {self.outcome}")


@dataclass(frozen=True)
class Decision:
    """What a person decided about a case. Decisions are only added; the undo window is the one way to take one back."""

    id: UUID
    case_id: UUID
    #: Which review of the case this was.
    stage: Stage
    outcome: Outcome
    technique: Technique | None
    reason: str | None
    policy: str | None
    reviewer_id: UUID
    reviewer: str  # name
    #: The analysis that was shown, and what it said. None when there was none.
    analysis_id: UUID | None
    verdict: Label | None
    #: What the reviewer said before the verdict was shown. None when it was shown at once.
    blind_outcome: Outcome | None
    blind_technique: Technique | None
    saw_verdict_first: bool
    #: From the claim to the decision. None when decided in bulk, without a claim.
    seconds: float | None
    created_at: datetime
    #: When it can no longer be undone.
    final_at: datetime
    undone_at: datetime | None = None
    #: The decision of an earlier review that this one replaces.
    supersedes: UUID | None = None
    feedback: tuple[ArtifactAnswer, ...] = ()


@dataclass(frozen=True)
class Appeal:
    """The uploader asks for another decision."""

    id: UUID
    case_id: UUID
    decision_id: UUID
    reason: str
    #: Who submitted it: platform:NAME or reviewer:ID.
    appellant: str
    #: The platform's own id of the appeal. None when it has none.
    external_id: str | None
    created_at: datetime
    #: The decision that answered it. None until then.
    resolved_by: UUID | None = None


def is_blind_first(case_id: UUID, share: float) -> bool:
    """Whether the first reviewer judges before the verdict is shown. Every page and process gives the same answer."""
    return place_of(case_id, "blind") < share


def verdict_is_hidden(
    case_id: UUID, state: CaseState, stage: Stage, *, has_verdict: bool, judged: bool, share: float
) -> bool:
    """Whether a person must judge a case before they see its verdict, on any page.

    `judged`: they have judged it. `share`: the share of cases that are judged blind. A decided case hides nothing.
    """
    return (
        has_verdict
        and not judged
        and state not in (CaseState.DECIDED, CaseState.WITHDRAWN)
        and stage in BLIND_STAGES
        and is_blind_first(case_id, share)
    )


def needs_second(case_id: UUID, share: float) -> bool:
    """Whether the case is in the sample that two people review."""
    return place_of(case_id, "second") < share


def may_review(stage: Stage, person: Person, earlier_reviewers: Collection[UUID]) -> None:
    """Raise NotAllowed or SameReviewer unless this person may review a case at this stage.

    An escalated case is for a lead. Nobody reviews a case that they decided before.
    """
    require(person, Act.REVIEW_ESCALATED if stage is Stage.ESCALATED else Act.REVIEW)
    if person.id in earlier_reviewers:
        raise SameReviewer("you decided this case before; another person reviews that decision")


def next_step(stage: Stage, outcome: Outcome, earlier: Outcome | None, *, sampled: bool) -> Move:
    """What a judgement does to the case: DECIDE ends it, SECOND and ESCALATE send it on to another person.

    `earlier` is the outcome that a second review is compared with. Raise JudgementIncomplete when a lead escalates
    an escalated case.
    """
    if outcome is Outcome.ESCALATE:
        if stage is Stage.ESCALATED:
            raise JudgementIncomplete(
                "this case was escalated to you: decide it, or say that you cannot tell"
            )
        return Move.ESCALATE
    if stage is Stage.FIRST and sampled:
        return Move.SECOND
    if stage is Stage.SECOND and outcome is not earlier:
        return Move.ESCALATE
    return Move.DECIDE


def stage_after(move: Move, stage: Stage) -> Stage:
    """The review that a case waits for, or had last, after this move of a reviewer."""
    return {Move.SECOND: Stage.SECOND, Move.ESCALATE: Stage.ESCALATED, Move.APPEAL: Stage.APPEAL}.get(
        move, stage
    )


def agrees(outcome: Outcome, verdict: Label | None) -> bool:
    """Whether a person and the model agree. They also agree when neither can tell."""
    return verdict is not None and outcome is _AGREEING[verdict]


def require_reason(
    judgement: Judgement, verdict: Label | None, policy: ReasonPolicy, *, unseen: bool = False
) -> None:
    """Raise ReasonRequired when a reason is missing and required. The message fits what was chosen.

    The installation's policy may require one. Every installation requires one when somebody says what a picture is that
    could not be shown or analysed.
    """
    if judgement.reason is not None and judgement.reason.strip():
        return
    outcome = judgement.outcome
    if unseen and outcome in (Outcome.DEEPFAKE, Outcome.BONA_FIDE):
        raise ReasonRequired("say how you know: this picture could not be shown, or not be analysed")
    if policy == "always" or (policy == "disagreeing" and needs_words(outcome, verdict)):
        raise ReasonRequired(_why_words(outcome, verdict))


def _why_words(outcome: Outcome, verdict: Label | None) -> str:
    if outcome is Outcome.ESCALATE:
        return "say why you escalate: whoever takes the case next starts from your words"
    if not needs_words(outcome, verdict) or verdict is None:
        return "say why: this installation asks for a reason with every decision"
    said = verdict.value.replace("_", " ")
    if outcome is Outcome.CANNOT_TELL:
        return f"say why you cannot tell: the verdict is {said}"
    return f"say why: you decide {outcome.value.replace('_', ' ')}, and the verdict is {said}"


def needs_words(outcome: Outcome, verdict: Label | None) -> bool:
    """Whether a decision departs from the verdict, or asks somebody else to decide.

    Nobody departs from a verdict that settles nothing, or from none.
    """
    if outcome is Outcome.ESCALATE:
        return True
    return verdict in (Label.DEEPFAKE, Label.BONA_FIDE) and not agrees(outcome, verdict)
