"""Questions to DFA-GPT about a case's picture: asked, taken by a worker, then answered or given up.

A question is answered once: a worker takes it under a number, and an answer under an older number is thrown away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import exists, func, insert, select
from sqlalchemy.orm import Session

from moderation.cases import ImageRef
from moderation.database.ids import new_id
from moderation.database.review import lock_case
from moderation.database.shapes import as_value
from moderation.database.tables import AnalysisRow, CaseRow, QuestionRow
from moderation.database.work import QUESTIONS, stale_seconds
from moderation.settings import Settings

#: The failure of a question whose case was erased before it was answered.
ERASED = "erased"
#: The failure of a question whose platform took the image back before it was answered.
WITHDRAWN = "withdrawn"
#: Questions given up in one transaction, so that it stays short.
GIVEN_UP_AT_ONCE = 1000


@dataclass(frozen=True)
class Question:
    """What somebody asked about a picture, and what DFA-GPT answered."""

    id: UUID
    case_id: UUID
    #: platform:NAME or reviewer:ID.
    asked_by: str
    question: str
    #: The face it is about: its number, from 1, in the analysis `analysis_id`. Both are None when no face was judged.
    face: int | None
    analysis_id: UUID | None
    created_at: datetime
    answer: str | None  # None until it is answered, and when it failed
    #: Why there is no answer: a code. None otherwise.
    failure: str | None
    bundle: str | None  # None without an answer, like the next two
    fingerprint: str | None
    #: The model's part of the wait.
    seconds: float | None
    #: When it was answered or given up. None until then.
    answered_at: datetime | None


@dataclass(frozen=True)
class HeldQuestion:
    """A question that a worker has taken."""

    id: UUID
    case_id: UUID
    question: str
    #: As in `Question`.
    face: int | None
    analysis_id: UUID | None
    image: ImageRef
    #: How often it was taken, from 1. The answer is written under this number.
    attempt: int
    #: Digest of the bytes that the shown analysis was made of, in hexadecimal. None: there is no analysis.
    sha256: str | None
    #: Questions and answers about this face before this one, oldest first.
    turns: tuple[tuple[str, str], ...]


def insert_question(
    session: Session, case_id: UUID, *, asked_by: str, question: str, about: tuple[UUID, int] | None = None
) -> Question:
    """Insert a question. `about`: an analysis and the number of a face in it. The caller publishes after the commit."""
    analysis_id, face = about or (None, None)
    row = session.scalars(
        insert(QuestionRow)
        .values(
            id=new_id(),
            case_id=case_id,
            asked_by=asked_by,
            question=question,
            analysis_id=analysis_id,
            face=face,
            rung_at=func.now(),
        )
        .returning(QuestionRow)
    ).one()
    return as_value(Question, row)


def questions_of(session: Session, case_id: UUID) -> list[Question]:
    """All questions about a case, oldest first."""
    rows = session.scalars(
        select(QuestionRow)
        .where(QuestionRow.case_id == case_id)
        .order_by(QuestionRow.created_at, QuestionRow.id)
        .execution_options(populate_existing=True)
    )
    return [as_value(Question, row) for row in rows]


def question_is_suspect(session: Session, question_id: UUID, *, stale_after: float) -> bool:
    """Whether the question is free and its last worker never ended it."""
    abandoned = exists().where(
        QuestionRow.id == question_id, QUESTIONS.free(stale_after), QuestionRow.begun_at.is_not(None)
    )
    return bool(session.scalar(select(abandoned)))


def begin_question(
    session: Session, question_id: UUID, *, stale_after: float, quarantined: bool
) -> HeldQuestion | None:
    """Take a question; None when it is answered, or another worker took it less than `stale_after` seconds ago.

    A question that a worker took and never ended is taken only in quarantine.
    """
    fit = () if quarantined else (QuestionRow.begun_at.is_(None),)
    taken = QUESTIONS.take(session, question_id, *fit, stale_after=stale_after)
    if taken is None:
        return None
    row = session.execute(
        select(CaseRow.bucket, CaseRow.key, CaseRow.version_id, AnalysisRow.image_sha256)
        .outerjoin(AnalysisRow, AnalysisRow.id == CaseRow.analysis_id)
        .where(CaseRow.id == taken.case_id)
    ).one()
    turns = session.execute(
        select(QuestionRow.question, QuestionRow.answer)
        .where(
            QuestionRow.case_id == taken.case_id,
            QuestionRow.face.is_not_distinct_from(taken.face),
            QuestionRow.analysis_id.is_not_distinct_from(taken.analysis_id),
            QuestionRow.answer.is_not(None),
            QuestionRow.created_at < taken.created_at,
        )
        .order_by(QuestionRow.created_at, QuestionRow.id)
    )
    return as_value(
        HeldQuestion,
        taken,
        image=as_value(ImageRef, row),
        attempt=taken.attempts,
        sha256=None if row.image_sha256 is None else row.image_sha256.hex(),
        turns=tuple((question, answer or "") for question, answer in turns),
    )


def record_answer(
    session: Session, held: HeldQuestion, answer: str, *, bundle: str, fingerprint: str, seconds: float
) -> bool:
    """Store the answer. False: another worker has taken the question, it is answered, or the case is erased.

    Both this function and erasing lock the case before its questions, so that no text of an erased case is stored.
    """
    if lock_case(session, held.case_id).erased_at is not None:
        record_failure(session, held, ERASED)
        return False
    return QUESTIONS.finish(
        session, held.id, held.attempt, answer=answer, bundle=bundle, fingerprint=fingerprint, seconds=seconds
    )


def record_failure(session: Session, held: HeldQuestion, code: str) -> bool:
    """End the question without an answer, with the reason."""
    return QUESTIONS.finish(session, held.id, held.attempt, failure=code)


def release_question(session: Session, held: HeldQuestion) -> None:
    """Release the question because something of ours was unavailable. The sweeper publishes it again."""
    QUESTIONS.release(session, held.id, held.attempt)


def end_questions_of(session: Session, case_id: UUID, code: str) -> None:
    """End the open questions of a case, which the caller has locked. A late answer is thrown away."""
    of_case = QuestionRow.case_id == case_id
    # Look first: the archiver may not write questions, and its cases have no open ones.
    if session.scalar(select(exists().where(of_case, QuestionRow.answered_at.is_(None)))):
        QUESTIONS.end(session, of_case, failure=code)


def due_questions(session: Session, settings: Settings, limit: int) -> Sequence[UUID]:
    """The oldest questions to publish, marked as published. First, questions that were taken too often are given up."""
    stale_after = stale_seconds(settings)
    spent = QUESTIONS.spent(limit=GIVEN_UP_AT_ONCE, stale_after=stale_after)
    QUESTIONS.give_up(session, spent, failure="no_answer")
    due = QUESTIONS.due(limit=limit, again_after=settings.publish_again_seconds, stale_after=stale_after)
    ids = session.scalars(due.order_by(QuestionRow.created_at)).all()
    QUESTIONS.mark_published(session, ids)
    return ids
