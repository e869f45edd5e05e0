"""Questions: somebody asks DFA-GPT about a case's picture, and a worker answers.

As with cases, the row is the truth and the message a bell: asking is insert, commit, ring. A question that nobody
hears of is rung for again by the sweeper, and given up after `ATTEMPTS` takings. While no worker runs it waits.
"""

import re
from uuid import UUID

from moderation.cases import CaseState
from moderation.database import questions as rows
from moderation.database.connection import Database
from moderation.database.questions import Question
from moderation.database.rollouts import live_workers
from moderation.database.tables import CaseRow
from moderation.dispatch import QUESTION_QUEUE, Doorbell
from moderation.errors import (
    BrokerUnavailable,
    CaseArchived,
    CaseNotFound,
    CaseWithdrawn,
    QuestionRefused,
    TooManyQuestions,
    TransitionRefused,
)
from moderation.people import Act, Person, require
from moderation.settings import Settings
from moderation.writing import as_written

#: Characters of one question. A longer one is not a question about a face.
LONGEST_QUESTION = 500
#: Questions of one case that wait for an answer at once, and all that it may have.
OPEN_AT_MOST, ALL_AT_MOST = 4, 100
#: How often a question is taken by a worker before it is given up.
ATTEMPTS = 3
#: Bells for questions on the queue, beyond which the sweeper rings no more.
BELLS_AT_MOST = 100

_BREAKS = re.compile(r"[ \t\n]+")

#: What reviewers ask most often: offered beside the box.
SUGGESTIONS = (
    "What looks manipulated in this face?",
    "Are the eyes consistent with each other?",
    "Does the mouth fit the rest of the face?",
    "Is the skin texture natural?",
    "Is there a visible border around the face?",
)

#: Why a question has no answer, in words. The codes of refused images have words of their own.
FAILURES = {
    "no_answer": "No worker could answer this question. Ask again, or decide without it.",
    "no_face": "There is no face in this picture that the model could look at.",
    "image_changed": "The picture was replaced since it was analysed: the model would look at another one.",
    "unreadable": "The model has no answer to this: its reply cannot be read, or contradicts what it said before.",
    "question_refused": "The model does not take this question.",
    "erased": "The case was erased before this question was answered.",
    "withdrawn": "The platform took the image back before this question was answered.",
    "fault": "A fault of ours stopped the answer. It was logged for an engineer.",
}


class Questions:
    """Asks and reads. Everything it holds is shared and safe between threads."""

    def __init__(self, database: Database, doorbell: Doorbell) -> None:
        self._database = database
        self._doorbell = doorbell

    def ask(self, case_id: UUID, question: str, *, actor: str, person: Person | None = None) -> Question:
        """Put a question. A platform asks as `actor`, a reviewer as `person`.

        Raise QuestionRefused, TooManyQuestions, CaseNotFound, NotAllowed, TransitionRefused before the case is ready,
        once it is erased, and when it was given up because its attempts never ended, CaseArchived.
        """
        if person is not None:
            require(person, Act.ASK)
        # One line, with the blanks that its writer put.
        wanted = _BREAKS.sub(" ", as_written(question) or "")
        if not 1 <= len(wanted) <= LONGEST_QUESTION:
            raise QuestionRefused(
                f"a question has 1 to {LONGEST_QUESTION} characters, this one has {len(wanted)}"
            )
        with self._database.transaction() as session:
            # Locked, so that two who ask at once are counted one after the other.
            case = session.get(CaseRow, case_id, with_for_update={"key_share": True, "read": False})
            if case is None:
                raise CaseNotFound(f"no case has the id {case_id}")
            if case.archive_id is not None:
                raise CaseArchived("this case is archived; `bonafide archive restore` brings it back")
            if case.erased_at is not None:
                raise TransitionRefused("this case was erased: nobody could look at its picture again")
            if case.state == CaseState.WITHDRAWN:
                raise CaseWithdrawn("this case's platform took the image back: no question is put about it")
            if case.state not in (CaseState.READY, CaseState.DECIDED):
                raise TransitionRefused(f"a case that is {case.state} takes no questions yet")
            if case.refusal_code == "attempts_exhausted" and case.expired_leases:
                # It may have ended a worker every time: no model looks at it again because somebody asks.
                raise TransitionRefused(
                    "analysing this picture may have ended a worker: no question is put about it"
                )
            earlier = rows.questions_of(session, case_id)
            if sum(one.answered_at is None for one in earlier) >= OPEN_AT_MOST:
                raise TooManyQuestions(f"{OPEN_AT_MOST} questions about this case wait for their answers")
            if len(earlier) >= ALL_AT_MOST:
                raise TooManyQuestions(f"this case has had its {ALL_AT_MOST} questions")
            asked = rows.insert_question(session, case_id, asked_by=actor, question=wanted)
        if self._doorbell.ring_questions([asked.id]) == 0:
            with self._database.transaction() as session:
                rows.mark_question_unrung(session, [asked.id])
        return asked

    def of_case(self, case_id: UUID) -> list[Question]:
        """All questions about a case, oldest first. Raise CaseNotFound."""
        with self._database.transaction() as session:
            if session.get(CaseRow, case_id) is None:
                raise CaseNotFound(f"no case has the id {case_id}")
            return rows.questions_of(session, case_id)

    def worker_is_there(self) -> bool:
        """Whether any worker lives that could answer now."""
        with self._database.transaction() as session:
            return bool(live_workers(session))


def answer_seconds(settings: Settings) -> float:
    """After so long without an answer a worker that took a question counts as gone."""
    return 2 * settings.engine_timeout_seconds


def ring_waiting(database: Database, doorbell: Doorbell, settings: Settings) -> int:
    """Ring again for questions whose bell was lost, and give up those tried too often; return for how many was rung.

    For the sweeper, at every look. Raise DatabaseUnavailable.
    """
    stale_after = answer_seconds(settings)
    try:
        # What was rung for is on the queue, and no worker takes it: more bells would only pile up.
        room = BELLS_AT_MOST - doorbell.depth(QUESTION_QUEUE)
    except BrokerUnavailable:
        room = 0
    with database.transaction() as session:
        rows.give_up_questions(session, attempts_at_most=ATTEMPTS, stale_after=stale_after)
        if room <= 0:
            return 0
        ids = rows.questions_to_ring(
            session, limit=room, ring_again_seconds=settings.ring_again_seconds, stale_after=stale_after
        )
    rung = doorbell.ring_questions(ids) if ids else 0
    if rung < len(ids):
        with database.transaction() as session:
            rows.mark_question_unrung(session, ids[rung:])
    return rung
