"""A reviewer's part through the real processes: a question to the model, a decision, an appeal's way back."""

import threading
from pathlib import Path

from moderation.cases import Stage
from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.decisions import Outcome, is_blind_first, needs_second
from moderation.settings import Settings
from moderation.wire import CaseOut, QuestionOut
from tests.builders import new_id
from tests.integration.conftest import enrolled


def _plain_case(client: BonaFide, picture: Path) -> CaseOut:
    """A ready case that is of no sample."""
    shares = Settings.model_fields
    while True:
        case = client.wait(client.submit_file(picture, external_id=str(new_id())).id, timeout=60)
        if not is_blind_first(case.id, shares["blind_first_share"].default) and not needs_second(
            case.id, shares["second_review_share"].default
        ):
            return case


def _answered(client: BonaFide, case: CaseOut) -> list[QuestionOut]:
    """The case's questions once all have their answers."""
    waiting = threading.Event()
    for _ in range(300):
        found = client.questions(case.id)
        assert found.worker_is_there
        if all(one.answered_at is not None for one in found.questions):
            return found.questions
        waiting.wait(0.2)
    raise AssertionError("no answer within a minute")


def test_a_reviewer_asks_the_model_twice_and_decides(
    client: BonaFide, owner: Database, samples: Path
) -> None:
    case = _plain_case(client, samples / "forged-swap-1.jpg")
    ada = enrolled(owner, f"Ada {new_id()}")

    client.ask(case.id, "What looks manipulated in this face?")
    _answered(client, case)
    client.ask(case.id, "Are you sure?")
    first, second = _answered(client, case)
    claim = client.claim(case.id, reviewer=ada.email)
    decision = client.decide(
        case.id, Outcome.CANNOT_TELL, reviewer=ada.email, claim=claim, reason="it is a sample"
    )

    # A model that contradicts what it said of the face has no answer: which of both it is, is mini's affair.
    for asked in (first, second):
        assert asked.failure in (None, "unreadable")
        assert (asked.answer is None) == (asked.failure is not None)
        assert asked.answer is None or (asked.bundle, asked.fingerprint) == (case.bundle, case.fingerprint)
    decided = client.case(case.id)
    assert (decided.state, decided.stage, decided.decision) == ("decided", Stage.FIRST, decision)
    with owner.transaction() as session:
        chain = read_chain(session, case.id)
    assert chain.broken_at is None
    assert [event.kind for event in chain.events] == ["accepted", "analysis_begun", "analyzed", "decided"]


def test_a_question_about_a_picture_without_a_face_says_so(client: BonaFide, samples: Path) -> None:
    case = client.wait(client.submit_file(samples / "no-face.jpg").id, timeout=60)

    client.ask(case.id, "Who is this?")

    (question,) = _answered(client, case)
    assert (question.answer, question.failure) == (None, "no_face")
