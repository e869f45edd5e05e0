"""Reviewing through the API: a platform's own reviewers claim, ask and decide with a key of the platform.

Each call names the reviewer by email. Reviewers are people of this installation, and every rule of `moderation.review`
holds for them as in the console.
"""

from uuid import UUID

from fastapi import APIRouter

from moderation.accounts.person_rows import find_person_by_email
from moderation.decisions import ArtifactAnswer, Judgement
from moderation.errors import PersonNotFound, StaleCase
from moderation.people import Person
from moderation.presentation import appeal_json, decision_json
from moderation.web.callers import OnlyJson, OnlyKnownParameters, Reader, Reviewer, Submitter
from moderation.web.problems import NO_CASE, RESPONSES, documented
from moderation.web.services import Services, ServicesDep
from moderation.wire import (
    AppealIn,
    AppealOut,
    ClaimOut,
    DecisionIn,
    DecisionOut,
    QuestionIn,
    QuestionList,
    QuestionOut,
    ReleaseIn,
    ReviewerIn,
)

router = APIRouter(
    prefix="/v1/cases/{case_id}", responses=RESPONSES, dependencies=[OnlyKnownParameters, OnlyJson]
)

_NOT_FOUND = documented({404: "No case, or no reviewer, is known by this"})
_REVIEW = {
    **_NOT_FOUND,
    **documented({409: "Something happened meanwhile: the code says what, and nothing was changed"}),
}


@router.post("/claim", responses=_REVIEW, summary="Take a case, or keep it")
def post_claim(case_id: UUID, body: ReviewerIn, services: ServicesDep, key: Reviewer) -> ClaimOut:
    """For ten minutes, or as the installation is set up, nobody else can decide this case. Call again to renew."""
    claim = services.review.claim(_person(services, body.reviewer), case_id)
    assert claim.version is not None, "it was read with the case"
    return ClaimOut(token=claim.token, expires_at=claim.expires_at, version=claim.version)


@router.post("/release", status_code=204, responses=_NOT_FOUND, summary="Give a case back to the queue")
def post_release(case_id: UUID, body: ReleaseIn, services: ServicesDep, key: Reviewer) -> None:
    """The second call does nothing, nor does a call after the claim was lost."""
    services.review.release(_person(services, body.reviewer), case_id, body.token)


@router.post("/decision", status_code=201, responses=_REVIEW, summary="Decide a case")
def post_decision(case_id: UUID, body: DecisionIn, services: ServicesDep, key: Reviewer) -> DecisionOut:
    """Needs a claim, and the version of the case that the reviewer saw. `stale_case` says what has happened since.

    Repeating the decision returns the first one, as long as nothing else has happened.
    """
    judgement = Judgement(
        outcome=body.outcome,
        technique=body.technique,
        reason=body.reason,
        policy=body.policy,
        feedback=tuple(ArtifactAnswer(said.face, said.ordinal, said.answer) for said in body.feedback),
    )
    person = _person(services, body.reviewer)
    try:
        decision = services.review.decide(
            person,
            case_id,
            token=body.token,
            version=body.version,
            judgement=judgement,
            # The API showed the case with its verdict.
            hides_verdict=False,
        )
    except StaleCase:
        # A platform repeats the call when it lost the answer.
        decision = services.review.decided_already(person, case_id, version=body.version, judgement=judgement)
        if decision is None:
            raise
    return DecisionOut.model_validate(decision_json(decision))


@router.post(
    "/appeal",
    status_code=201,
    responses=_REVIEW,
    summary="Pass on that the uploader asks for another decision",
)
def post_appeal(case_id: UUID, body: AppealIn, services: ServicesDep, key: Submitter) -> AppealOut:
    """The case goes to another person. Repeating the appeal returns the first one."""
    appeal = services.review.appeal(
        case_id, body.reason, actor=f"platform:{key.name}", external_id=body.external_id
    )
    return AppealOut.model_validate(appeal_json(appeal))


@router.post(
    "/questions",
    status_code=202,
    responses={**_REVIEW, **documented({429: "The case has too many questions"})},
    summary="Ask DFA-GPT about the picture",
)
def post_question(case_id: UUID, body: QuestionIn, services: ServicesDep, key: Reviewer) -> QuestionOut:
    """A worker answers within seconds, if one runs. Read the questions to see the answer."""
    asked = services.questions.ask(case_id, body.question, actor=f"platform:{key.name}", face=body.face)
    return QuestionOut.model_validate(asked)


@router.get("/questions", responses=NO_CASE, summary="Read what was asked and answered")
def get_questions(case_id: UUID, services: ServicesDep, key: Reader) -> QuestionList:
    return QuestionList(
        questions=[QuestionOut.model_validate(question) for question in services.questions.of_case(case_id)],
        worker_is_there=services.questions.worker_is_there(),
    )


def _person(services: Services, email: str) -> Person:
    with services.database.transaction() as session:
        person = find_person_by_email(session, email.strip().lower())
    if person is None:
        raise PersonNotFound("no reviewer of this installation has this email")
    return person
