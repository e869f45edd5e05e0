"""Questions to DFA-GPT about a case's picture: asked, taken by a worker, answered or given up.

A question is answered once: whoever takes it gets a number, and an answer under an older number is thrown away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from moderation.cases import ImageRef
from moderation.database.ids import new_id
from moderation.database.moves import seconds
from moderation.database.review import lock_case
from moderation.database.tables import AnalysisRow, CaseRow, QuestionRow

#: The failure of a question whose case was erased before it was answered.
ERASED = "erased"
#: The failure of one whose platform took the image back before.
WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Question:
    """What somebody asked about a picture, and what DFA-GPT answered."""

    id: UUID
    case_id: UUID
    #: platform:NAME or reviewer:ID.
    asked_by: str
    question: str
    created_at: datetime
    answer: str | None  # None until it is answered, and when it could not be
    #: Why there is no answer: a code. None otherwise.
    failure: str | None
    bundle: str | None  # None without an answer, as the next two
    fingerprint: str | None
    #: The model's part of the wait.
    seconds: float | None
    #: When it was answered or given up. None until then.
    answered_at: datetime | None


@dataclass(frozen=True)
class Begun:
    """A question that a worker has taken."""

    id: UUID
    case_id: UUID
    question: str
    image: ImageRef
    #: Which taking this is, from 1: the answer is written under it.
    attempt: int
    #: Of the bytes that the analysis on show was made of, in hexadecimal. None: there is none.
    sha256: str | None
    #: Questions and answers about this case before this one, oldest first.
    turns: tuple[tuple[str, str], ...]


def insert_question(session: Session, case_id: UUID, *, asked_by: str, question: str) -> Question:
    """The bell is rung by the caller, after the commit."""
    row = session.scalars(
        insert(QuestionRow)
        .values(
            id=new_id(),
            case_id=case_id,
            asked_by=asked_by,
            question=question,
            rung_at=func.now(),
        )
        .returning(QuestionRow)
    ).one()
    return _question(row)


def questions_of(session: Session, case_id: UUID) -> list[Question]:
    """All questions about a case, oldest first."""
    rows = session.scalars(
        select(QuestionRow)
        .where(QuestionRow.case_id == case_id)
        .order_by(QuestionRow.created_at, QuestionRow.id)
        .execution_options(populate_existing=True)
    )
    return [_question(row) for row in rows]


def was_abandoned(session: Session, question_id: UUID, *, stale_after: float) -> bool | None:
    """Whether who took this question last never came back with it. None: it cannot be taken, as in `begin_question`."""
    return session.scalar(
        select(QuestionRow.begun_at.is_not(None)).where(
            QuestionRow.id == question_id, QuestionRow.answered_at.is_(None), _free(stale_after)
        )
    )


def begin_question(session: Session, question_id: UUID, *, stale_after: float) -> Begun | None:
    """Take a question; None when it is answered, or another worker took it less than `stale_after` seconds ago."""
    taken = session.execute(
        update(QuestionRow)
        .where(QuestionRow.id == question_id, QuestionRow.answered_at.is_(None), _free(stale_after))
        .values(attempts=QuestionRow.attempts + 1, begun_at=func.now())
        .returning(QuestionRow.case_id, QuestionRow.question, QuestionRow.attempts, QuestionRow.created_at)
        .execution_options(synchronize_session=False)
    ).first()
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
            QuestionRow.answer.is_not(None),
            QuestionRow.created_at < taken.created_at,
        )
        .order_by(QuestionRow.created_at, QuestionRow.id)
    )
    return Begun(
        question_id,
        taken.case_id,
        taken.question,
        ImageRef(row.bucket, row.key, row.version_id),
        taken.attempts,
        None if row.image_sha256 is None else row.image_sha256.hex(),
        tuple((question, answer or "") for question, answer in turns),
    )


def record_answer(
    session: Session, begun: Begun, answer: str, *, bundle: str, fingerprint: str, seconds: float
) -> bool:
    """Store the answer. False: somebody else has taken the question since, it is answered, or the case is erased.

    The case is locked before its questions, here and where it is erased: no text is stored of what is erased.
    """
    case_row = lock_case(session, begun.case_id)
    assert case_row is not None, "a case with a question is never deleted"
    if case_row.erased_at is not None:
        record_failure(session, begun, ERASED)
        return False
    return _end(
        session,
        QuestionRow.id == begun.id,
        QuestionRow.attempts == begun.attempt,
        answer=answer,
        bundle=bundle,
        fingerprint=fingerprint,
        seconds=seconds,
    )


def record_failure(session: Session, begun: Begun, code: str) -> bool:
    """Give the question up, with the reason."""
    return _end(session, QuestionRow.id == begun.id, QuestionRow.attempts == begun.attempt, failure=code)


def end_questions_of(session: Session, case_id: UUID, code: str) -> None:
    """Give up what is open about a case, which the caller has locked. Its answer, should one come, is thrown away."""
    open_ = (QuestionRow.case_id == case_id, QuestionRow.answered_at.is_(None))
    # Looked for first: the archiver may not write questions, and meets none that is open.
    if session.scalar(select(exists().where(*open_))):
        _end(session, *open_, failure=code)


def _end(session: Session, *where: ColumnElement[bool], **values: object) -> bool:
    ended = session.execute(
        update(QuestionRow)
        .where(QuestionRow.answered_at.is_(None), *where)
        .values(answered_at=func.now(), **values)
        .returning(QuestionRow.id)
        .execution_options(synchronize_session=False)
    )
    return ended.first() is not None


def hand_question_back(session: Session, begun: Begun) -> None:
    """Something of ours was unavailable: the sweeper rings for the question again."""
    session.execute(
        update(QuestionRow)
        .where(
            QuestionRow.id == begun.id,
            QuestionRow.attempts == begun.attempt,
            QuestionRow.answered_at.is_(None),
        )
        .values(begun_at=None)
        .execution_options(synchronize_session=False)
    )


def give_up_questions(session: Session, *, attempts_at_most: int, stale_after: float) -> int:
    """End the questions that were taken as often as we try and that nobody is answering; return how many."""
    ended = session.execute(
        update(QuestionRow)
        .where(
            QuestionRow.answered_at.is_(None), QuestionRow.attempts >= attempts_at_most, _free(stale_after)
        )
        .values(answered_at=func.now(), failure="no_answer")
        .returning(QuestionRow.id)
        .execution_options(synchronize_session=False)
    )
    return len(ended.all())


def questions_to_ring(
    session: Session, *, limit: int, ring_again_seconds: float, stale_after: float
) -> Sequence[UUID]:
    """Unanswered questions whose bell is old and that nobody is answering, marked as rung now; the oldest first."""
    silent = or_(
        QuestionRow.rung_at.is_(None), QuestionRow.rung_at < func.now() - seconds(ring_again_seconds)
    )
    chosen = (
        select(QuestionRow.id)
        .where(QuestionRow.answered_at.is_(None), silent, _free(stale_after))
        .order_by(QuestionRow.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(
        update(QuestionRow)
        .where(QuestionRow.id.in_(chosen))
        .values(rung_at=func.now())
        .returning(QuestionRow.id)
        .execution_options(synchronize_session=False)
    ).all()


def mark_question_unrung(session: Session, question_ids: Sequence[UUID]) -> None:
    """Their bells did not reach the queue: the sweeper rings at its next look."""
    session.execute(
        update(QuestionRow)
        .where(QuestionRow.id.in_(question_ids), QuestionRow.answered_at.is_(None))
        .values(rung_at=None)
        .execution_options(synchronize_session=False)
    )


def _free(stale_after: float) -> ColumnElement[bool]:
    """Nobody is answering it, or nobody has been heard of for that long."""
    return or_(QuestionRow.begun_at.is_(None), QuestionRow.begun_at < func.now() - seconds(stale_after))


def _question(row: QuestionRow) -> Question:
    return Question(
        id=row.id,
        case_id=row.case_id,
        asked_by=row.asked_by,
        question=row.question,
        created_at=row.created_at,
        answer=row.answer,
        failure=row.failure,
        bundle=row.bundle,
        fingerprint=row.fingerprint,
        seconds=row.seconds,
        answered_at=row.answered_at,
    )
