"""Reviewing through the API, by the client and by hand."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from moderation.accounts.keys import add_key
from moderation.analysis import Technique
from moderation.cases import Stage
from moderation.client import ApiProblem, BonaFide
from moderation.database.connection import Database
from moderation.database.review import decisions_of
from moderation.decisions import Answer, Outcome
from moderation.people import Person
from moderation.review import Review
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.wire import ArtifactAnswerIn
from tests.builders import a_face_analysis, a_verdict, an_analysis, new_id
from tests.integration.conftest import accepted, enrolled, ready, serving
from tests.integration.deciding import decide


@pytest.fixture
def certain(settings: Settings) -> Settings:
    """Nothing is sampled, and a decision is final at once."""
    return settings.model_copy(
        update={"blind_first_share": 0.0, "second_review_share": 0.0, "undo_seconds": 0.0}
    )


@pytest.fixture
def client(certain: Settings, database: Database) -> Iterator[BonaFide]:
    """A platform's client over real HTTP."""
    with database.transaction() as session:
        key = add_key(session, "testers")
    with serving(create_app(certain)) as url, BonaFide(url, key, tries=1) as opened:
        yield opened


def _code(problem: pytest.ExceptionInfo[ApiProblem]) -> tuple[int, str]:
    return problem.value.status, problem.value.code


def test_a_platforms_reviewer_claims_decides_and_the_uploader_appeals(
    client: BonaFide, database: Database, ada: Person
) -> None:
    case_id = ready(database)
    grace = enrolled(database, "Grace")

    claim = client.claim(case_id, reviewer="Ada@Example.org ")
    with pytest.raises(ApiProblem) as refusal:
        client.claim(case_id, reviewer=grace.email)
    assert _code(refusal) == (409, "already_claimed")
    decision = client.decide(
        case_id,
        Outcome.DEEPFAKE,
        reviewer=ada.email,
        claim=claim,
        technique=Technique.FS,
        policy="impersonation",
        feedback=[ArtifactAnswerIn(face=0, ordinal=1, answer=Answer.AGREE)],
    )

    assert client.case(case_id).decision == decision
    (listed,) = client.cases()
    assert listed.decision == decision
    assert (decision.outcome, decision.technique, decision.policy) == ("deepfake", "FS", "impersonation")

    appeal = client.appeal(case_id, "it is a wedding photo", external_id="a-7")
    assert client.appeal(case_id, "it is a wedding photo", external_id="a-7") == appeal
    reopened = client.case(case_id)
    assert (reopened.state, reopened.stage, reopened.decision) == ("ready", Stage.APPEAL, None)
    with pytest.raises(ApiProblem) as refusal:
        client.claim(case_id, reviewer=ada.email)
    assert _code(refusal) == (409, "same_reviewer")


def test_an_open_appeal_is_read_with_the_decision_that_it_is_against(
    client: BonaFide, database: Database, ada: Person, grace: Person, certain: Settings
) -> None:
    review = Review(database, certain.model_copy(update={"reason_required": "never"}))
    case_id = ready(database)
    first = decide(review, database, ada, case_id, Outcome.DEEPFAKE)
    assert client.case(case_id).appeal is None

    appeal = client.appeal(case_id, "it is a wedding photo", external_id="a-7")

    (listed,) = client.cases()
    for case in (client.case(case_id), listed):
        assert (case.decision, case.appeal) == (None, appeal)
        assert case.appealed_decision is not None
        assert case.appealed_decision.id == appeal.decision == first.id
    assert (appeal.appellant, appeal.reason, appeal.resolved_by) == (
        "platform:testers",
        "it is a wedding photo",
        None,
    )
    stated = client.statement(case_id)
    assert (stated.decision, stated.appealed) == (first.id, True)
    assert stated.statement is not None

    second = decide(review, database, grace, case_id, Outcome.BONA_FIDE)

    answered = client.case(case_id)
    assert answered.decision is not None
    assert answered.appeal is not None
    assert answered.appealed_decision is not None
    assert answered.decision.id == answered.appeal.resolved_by == second.id
    assert answered.appealed_decision.id == first.id
    stated = client.statement(case_id)
    assert (stated.decision, stated.appealed) == (second.id, False)


def test_platforms_do_not_learn_which_person_appealed(
    client: BonaFide, database: Database, ada: Person, lead: Person, certain: Settings
) -> None:
    review = Review(database, certain.model_copy(update={"reason_required": "never"}))
    case_id = ready(database)
    decide(review, database, ada, case_id, Outcome.DEEPFAKE)

    review.appeal(case_id, "look at the ears", actor=lead.actor, person=lead)

    appeal = client.case(case_id).appeal
    assert appeal is not None
    assert appeal.appellant == "reviewer"


def test_a_released_case_is_anybodys(client: BonaFide, database: Database, ada: Person) -> None:
    case_id = ready(database)
    grace = enrolled(database, "Grace")
    claim = client.claim(case_id, reviewer=ada.email)

    client.release(case_id, reviewer=ada.email, token=claim.token)
    client.release(case_id, reviewer=ada.email, token=claim.token)

    assert client.claim(case_id, reviewer=grace.email).token != claim.token


def test_questions_are_asked_and_read(client: BonaFide, database: Database) -> None:
    case_id = ready(database)

    asked = client.ask(case_id, "What is wrong here?")

    found = client.questions(case_id)
    assert found.questions == [asked]
    assert asked.face == 1
    assert not found.worker_is_there


def test_a_question_names_its_face_and_a_wrong_number_is_refused(
    client: BonaFide, database: Database
) -> None:
    other = a_face_analysis(verdict=a_verdict(score=0.6))
    case_id = ready(database, analysis=an_analysis(faces=(a_face_analysis(), other)))

    asked = client.ask(case_id, "What is wrong here?", face=2)
    with pytest.raises(ApiProblem) as refused:
        client.ask(case_id, "What is wrong here?", face=3)

    assert asked.face == 2
    assert (refused.value.status, refused.value.code) == (422, "face_not_judged")


@pytest.fixture
def api(certain: Settings, database: Database) -> Iterator[TestClient]:
    with database.transaction() as session:
        key = add_key(session, "testers")
    with TestClient(create_app(certain), headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


def _decide(api: TestClient, case_id: object, **fields: object) -> Any:
    body = {"reviewer": "ada@example.org", "token": 0, "version": 3, "outcome": "deepfake"}
    return api.post(f"/v1/cases/{case_id}/decision", json={**body, **fields})


def test_a_stale_decision_says_what_happened(api: TestClient, database: Database, ada: Person) -> None:
    case_id = ready(database)
    claim = api.post(f"/v1/cases/{case_id}/claim", json={"reviewer": ada.email}).json()
    assert _decide(api, case_id, token=claim["token"]).status_code == 201

    reply = _decide(api, case_id, token=claim["token"], outcome="bona_fide")

    assert reply.status_code == 409
    assert reply.json()["code"] == "stale_case"
    assert [change["kind"] for change in reply.json()["changes"]] == ["decided"]


@pytest.mark.parametrize("outcome", ["deepfake", "escalate"])
def test_the_same_decision_again_answers_the_first(
    api: TestClient, database: Database, ada: Person, outcome: str
) -> None:
    case_id = ready(database)
    claim = api.post(f"/v1/cases/{case_id}/claim", json={"reviewer": ada.email}).json()
    body = {
        "token": claim["token"],
        "outcome": outcome,
        "reason": "because",
        "policy": "impersonation",
        "feedback": [{"face": 0, "ordinal": 1, "answer": "agree"}],
    }

    first, again = (_decide(api, case_id, **body) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    with database.transaction() as session:
        assert len(decisions_of(session, case_id)) == 1


def test_a_decision_is_repeated_only_in_its_own_words_and_while_it_is_the_last(
    api: TestClient, certain: Settings, database: Database, ada: Person
) -> None:
    case_id, grace = ready(database), enrolled(database, "Grace")
    token = api.post(f"/v1/cases/{case_id}/claim", json={"reviewer": ada.email}).json()["token"]
    _decide(api, case_id, token=token)

    others = [{"technique": "FS"}, {"reason": "another"}, {"reviewer": grace.email}, {"version": 2}]
    codes = [_decide(api, case_id, **{"token": token, **other}).json()["code"] for other in others]
    assert _decide(api, case_id, token=token).status_code == 201
    api.post(f"/v1/cases/{case_id}/appeal", json={"reason": "it is me"})
    codes.append(_decide(api, case_id, token=token).json()["code"])

    assert codes == ["stale_case"] * 5


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        pytest.param({}, 409, "claim_lost", id="without a claim"),
        pytest.param({"reviewer": "nobody@example.org"}, 404, "person_not_found", id="by nobody"),
        pytest.param({"version": 2}, 409, "stale_case", id="of an old version"),
        pytest.param({"version": 9}, 409, "stale_case", id="of a version that is yet to be"),
        pytest.param(
            {"outcome": "bona_fide", "technique": "FS"}, 422, "judgement_incomplete", id="two things at once"
        ),
        pytest.param({"outcome": "maybe"}, 422, "invalid_request", id="another word"),
        pytest.param({"reason": "a\x00"}, 422, "invalid_request", id="a NUL"),
        pytest.param({"token": 2**63}, 422, "invalid_request", id="a token that is none"),
        pytest.param({"version": 2**31}, 422, "invalid_request", id="a version that is none"),
    ],
)
def test_a_decision_that_is_refused_says_why(
    api: TestClient, database: Database, ada: Person, fields: dict[str, object], status: int, code: str
) -> None:
    reply = _decide(api, ready(database), **fields)

    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_decision_without_a_needed_reason_is_refused(
    api: TestClient, database: Database, ada: Person
) -> None:
    case_id = ready(database)
    claim = api.post(f"/v1/cases/{case_id}/claim", json={"reviewer": ada.email}).json()

    reply = _decide(api, case_id, token=claim["token"], outcome="bona_fide")

    assert (reply.status_code, reply.json()["code"]) == (422, "reason_required")


@pytest.mark.parametrize("call", ["claim", "release", "decision", "appeal", "questions"])
def test_a_case_that_is_not_there_is_said_so(api: TestClient, ada: Person, call: str) -> None:
    bodies = {
        "claim": {"reviewer": ada.email},
        "release": {"reviewer": ada.email, "token": 1},
        "decision": {"reviewer": ada.email, "token": 1, "version": 1, "outcome": "deepfake"},
        "appeal": {"reason": "why"},
        "questions": {"question": "Why?"},
    }

    reply = api.post(f"/v1/cases/{new_id()}/{call}", json=bodies[call])

    # Giving back what one does not have is no mistake.
    assert reply.status_code == (204 if call == "release" else 404)


def test_what_is_not_ready_is_not_reviewed(api: TestClient, database: Database, ada: Person) -> None:
    case_id = accepted(database)

    claimed = api.post(f"/v1/cases/{case_id}/claim", json={"reviewer": ada.email})
    appealed = api.post(f"/v1/cases/{case_id}/appeal", json={"reason": "why"})

    assert [(reply.status_code, reply.json()["code"]) for reply in (claimed, appealed)] == [
        (409, "transition_refused")
    ] * 2


@pytest.mark.parametrize(
    ("scopes", "call", "allowed"),
    [
        (("submit", "read"), "claim", False),
        (("submit", "read"), "questions", False),
        (("review",), "claim", True),
        (("review",), "appeal", False),
    ],
)
def test_a_key_does_what_its_scopes_say(
    certain: Settings, database: Database, ada: Person, scopes: tuple[str, ...], call: str, allowed: bool
) -> None:
    with database.transaction() as session:
        key = add_key(session, "testers", scopes)
    bodies = {"claim": {"reviewer": ada.email}, "questions": {"question": "Why?"}, "appeal": {"reason": "w"}}

    with TestClient(create_app(certain), headers={"Authorization": f"Bearer {key}"}) as client:
        reply = client.post(f"/v1/cases/{ready(database)}/{call}", json=bodies[call])

    assert (reply.status_code == 403) is not allowed


def test_too_many_questions_are_refused(api: TestClient, database: Database) -> None:
    case_id = ready(database)

    replies = [
        api.post(f"/v1/cases/{case_id}/questions", json={"question": f"Why {number}?"}) for number in range(5)
    ]

    assert [reply.status_code for reply in replies] == [202] * 4 + [429]


def test_a_case_that_the_console_hides_at_first_is_decided_through_the_api_as_it_was_shown(
    certain: Settings, database: Database, ada: Person
) -> None:
    with database.transaction() as session:
        key = add_key(session, "testers")
    app = create_app(certain.model_copy(update={"blind_first_share": 1.0}))
    case_id = ready(database)

    with serving(app) as url, BonaFide(url, key, tries=1) as client:
        claim = client.claim(case_id, reviewer=ada.email)
        client.decide(case_id, Outcome.DEEPFAKE, reviewer=ada.email, claim=claim)

    with database.transaction() as session:
        (decision,) = decisions_of(session, case_id)
    assert (decision.blind_outcome, decision.saw_verdict_first) == (None, True)
