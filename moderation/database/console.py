"""What the console reads besides a case: people's names, the decisions they can undo, the cases they have judged."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, literal, select, tuple_
from sqlalchemy.orm import Session

from moderation.cases import CaseState, Stage
from moderation.database.review import find_decision
from moderation.database.tables import BlindJudgementRow, CaseRow, DecisionRow, PersonRow
from moderation.decisions import Decision


def names_of(session: Session, people: Collection[UUID]) -> dict[UUID, str]:
    """The names for these ids. Unknown ids are left out."""
    if not people:
        return {}
    rows = session.execute(select(PersonRow.id, PersonRow.name).where(PersonRow.id.in_(people)))
    return {found.id: found.name for found in rows}


def latest_undoable(session: Session, person_id: UUID) -> Decision | None:
    """This person's newest decision, if it can still be undone and was not."""
    found = session.execute(
        select(DecisionRow.id, DecisionRow.undone_at, DecisionRow.final_at > func.now())
        .where(DecisionRow.person_id == person_id)
        .order_by(DecisionRow.created_at.desc(), DecisionRow.id.desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    decision_id, undone_at, still_open = found
    return find_decision(session, decision_id) if undone_at is None and still_open else None


#: Decisions of one bulk follow each other at least so fast.
BULK_GAP = timedelta(seconds=2)


def made_together(session: Session, decision: Decision, *, limit: int) -> list[UUID]:
    """This decision and those of the same bulk that can still be undone, the newest first.

    A bulk is not stored: it is a person's decisions in the same words, each within `BULK_GAP` of the next one. Only
    the decision itself when it was made about a claimed case.
    """
    if decision.seconds is not None:
        return [decision.id]
    same = {
        DecisionRow.outcome: decision.outcome.value,
        DecisionRow.technique: decision.technique,
        DecisionRow.reason: decision.reason,
        DecisionRow.policy: decision.policy,
    }
    together = (
        select(DecisionRow.id, DecisionRow.created_at)
        .where(
            DecisionRow.person_id == decision.reviewer_id,
            DecisionRow.created_at <= decision.created_at,
            DecisionRow.seconds.is_(None),
            DecisionRow.undone_at.is_(None),
            DecisionRow.final_at > func.now(),
            *(column.is_not_distinct_from(value) for column, value in same.items()),
        )
        .order_by(DecisionRow.created_at.desc(), DecisionRow.id.desc())
        .limit(limit)
    )
    ids: list[UUID] = []
    before = decision.created_at
    for found, at in session.execute(together):
        if before - at > BULK_GAP:
            break
        ids.append(found)
        before = at
    return ids


def decisions_by(
    session: Session, person_id: UUID, *, before: UUID | None = None, limit: int = 50
) -> list[Decision]:
    """A page of this person's decisions, the newest first. `before` is the last id of the previous page.

    If `before` is no decision of this person, it is the first page.
    """
    ids = (
        select(DecisionRow.id)
        .where(DecisionRow.person_id == person_id)
        .order_by(DecisionRow.created_at.desc(), DecisionRow.id.desc())
        .limit(limit)
    )
    if before is not None:
        last = session.scalar(
            select(DecisionRow.created_at).where(DecisionRow.id == before, DecisionRow.person_id == person_id)
        )
        if last is not None:
            place = tuple_(literal(last), literal(before))
            ids = ids.where(tuple_(DecisionRow.created_at, DecisionRow.id) < place)
    return [found for each in session.scalars(ids).all() if (found := find_decision(session, each))]


def stands_of(session: Session, case_ids: Collection[UUID]) -> dict[UUID, tuple[CaseState, Stage]]:
    """The state and stage of each of these cases."""
    rows = session.execute(select(CaseRow.id, CaseRow.state, CaseRow.stage).where(CaseRow.id.in_(case_ids)))
    return {row.id: (CaseState(row.state), Stage(row.stage)) for row in rows}


def judged_by(session: Session, person_id: UUID, case_ids: Sequence[UUID]) -> set[UUID]:
    """The cases, of these, that this person judged before they saw the verdict."""
    judged = select(BlindJudgementRow.case_id).where(
        BlindJudgementRow.person_id == person_id, BlindJudgementRow.case_id.in_(case_ids)
    )
    return set(session.scalars(judged))
