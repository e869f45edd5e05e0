"""Questions: somebody asks DFA-GPT about a case's picture, and a worker answers.

As with cases, the row is the truth and the message a hint: we insert, commit, publish. The sweeper publishes a question
again when its message is lost, and gives it up when workers took it too often. It waits while no worker runs.
"""

import re
from uuid import UUID

from moderation.cases import CaseState
from moderation.database import questions as rows
from moderation.database.analyses import StoredAnalysis, shown_analyses
from moderation.database.cases import require_case
from moderation.database.connection import Database
from moderation.database.questions import Question
from moderation.database.review import lock_case
from moderation.dispatch import Publisher, WorkKind
from moderation.errors import (
    CaseArchived,
    CaseWithdrawn,
    FaceNotJudged,
    ImageRejected,
    QuestionRefused,
    TooManyQuestions,
    TransitionRefused,
)
from moderation.people import Act, Person, require
from moderation.rollouts.rollout_rows import live_workers
from moderation.writing import as_written

#: Characters of one question. A longer text is no question about a face.
LONGEST_QUESTION = 500
#: Questions of one case that may wait for an answer at the same time, and that it may have in all.
OPEN_AT_MOST, ALL_AT_MOST = 4, 100

_BREAKS = re.compile(r"[ \t\n]+")

#: Why a question has no answer, in words. Codes of refused images have their own words elsewhere.
FAILURES = {
    "no_answer": "No worker could answer this question. Ask again, or decide without it.",
    "no_face": "The model judged no face of this picture, so it has nothing to say about one.",
    "image_changed": "The picture was replaced since it was analysed: the model would look at another one.",
    "unreadable": "The model has no answer to this: its reply cannot be read, or contradicts what it said before.",
    "question_refused": "The model does not take this question.",
    "erased": "The case was erased before this question was answered.",
    "withdrawn": "The platform took the image back before this question was answered.",
    "fault": "A fault of ours stopped the answer. It was logged for an engineer.",
}

#: Refusals that say what is wrong with the image. With any other one the case was given up.
_OF_THE_IMAGE = {None, *(kind.code for kind in ImageRejected.__subclasses__())}


class Questions:
    """Asks and reads questions. Threads may share it."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        self._database = database
        self._publisher = publisher

    def ask(
        self,
        case_id: UUID,
        question: str,
        *,
        actor: str,
        person: Person | None = None,
        face: int | None = None,
    ) -> Question:
        """Ask about one face, by its number from 1 as the case shows it. None: the first face that was judged.

        A platform asks as `actor`, a reviewer as `person`. Raise QuestionRefused, FaceNotJudged, TooManyQuestions,
        CaseNotFound, NotAllowed, CaseArchived, or TransitionRefused: before the case is ready, once it is erased, and
        when it was given up after it may have ended a worker.
        """
        if person is not None:
            require(person, Act.ASK)
        # One line, with the writer's own spaces.
        wanted = _BREAKS.sub(" ", as_written(question) or "")
        if not 1 <= len(wanted) <= LONGEST_QUESTION:
            raise QuestionRefused(
                f"a question has 1 to {LONGEST_QUESTION} characters, this one has {len(wanted)}"
            )
        with self._database.transaction() as session:
            # Locked, so that questions that come at the same time are counted one after the other.
            case = lock_case(session, case_id)
            if case.archive_id is not None:
                raise CaseArchived("this case is archived; `bonafide archive restore` brings it back")
            if case.erased_at is not None:
                raise TransitionRefused("this case was erased: nobody could look at its picture again")
            if case.state == CaseState.WITHDRAWN:
                raise CaseWithdrawn("this case's platform took the image back: no question can be asked")
            if case.state not in (CaseState.READY, CaseState.DECIDED):
                raise TransitionRefused(f"a case that is {case.state} takes no questions yet")
            if case.refusal_code not in _OF_THE_IMAGE and case.expired_leases:
                # The picture may have ended a worker each time: no model looks at it again for a question.
                raise TransitionRefused(
                    "analysing this picture may have ended a worker: no question is put about it"
                )
            earlier = rows.questions_of(session, case_id)
            if sum(question.answered_at is None for question in earlier) >= OPEN_AT_MOST:
                raise TooManyQuestions(f"{OPEN_AT_MOST} questions about this case wait for their answers")
            if len(earlier) >= ALL_AT_MOST:
                raise TooManyQuestions(f"this case has had its {ALL_AT_MOST} questions")
            about = _about(shown_analyses(session, [case_id]).get(case_id), face)
            asked = rows.insert_question(session, case_id, asked_by=actor, question=wanted, about=about)
            self._publisher.publish_after_commit(session, WorkKind.QUESTION, [asked.id])
        return asked

    def of_case(self, case_id: UUID) -> list[Question]:
        """All questions about a case, oldest first. Raise CaseNotFound."""
        with self._database.transaction() as session:
            require_case(session, case_id)
            return rows.questions_of(session, case_id)

    def worker_is_there(self) -> bool:
        """Whether a worker runs that could answer now."""
        with self._database.transaction() as session:
            return bool(live_workers(session))


def _about(stored: StoredAnalysis | None, face: int | None) -> tuple[UUID, int] | None:
    """The analysis on show and the face that the question is about. None: no face was judged, and none is named.

    Raise FaceNotJudged.
    """
    faces = () if stored is None else stored.analysis.faces
    judged = [number for number, analyzed in enumerate(faces, start=1) if analyzed.judged]
    if face is not None and face not in judged:
        there = ", ".join(map(str, judged)) or "none"
        raise FaceNotJudged(f"face {face} of this picture was not judged; faces that were: {there}")
    if stored is None or not judged:
        return None
    return stored.id, face or judged[0]
