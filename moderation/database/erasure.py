"""Taking away what a decided case says about somebody, while the decision and the log of events stay.

Erased are the reason, context and ids the platform sent, the place of the image and its digest, rationales, replies,
landmarks, questions and answers, the words of decisions and appeals, and what webhooks carried. Verdicts, outcomes, who
looked and when, and the chain of events stay: it holds no text, and verifies as before.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moderation.cases import CaseState
from moderation.database.moves import seconds
from moderation.database.tables import CaseRow

_DAY = 86_400


def erase_case(session: Session, case_id: UUID, *, actor: str) -> bool:
    """Erase a decided case, once and for ever.

    False: there is none, it is not decided, is erased already, or a platform is still to be told of it.
    """
    return bool(session.scalar(select(func.erase_case(case_id, actor))))


def cases_past(
    session: Session, days: float, *, source: str | None, but: Collection[str] = (), limit: int = 100
) -> Sequence[UUID]:
    """Decided cases that were decided longer ago than so many days and are not erased, the oldest first.

    Of one source; of all sources but those in `but` when None.
    """
    query = (
        select(CaseRow.id)
        .where(
            CaseRow.state == CaseState.DECIDED,
            CaseRow.erased_at.is_(None),
            CaseRow.decided_at < func.now() - seconds(days * _DAY),
        )
        .order_by(CaseRow.decided_at)
        .limit(limit)
    )
    query = query.where(CaseRow.source == source) if source else query.where(CaseRow.source.not_in(but))
    return session.scalars(query).all()


def erase_past(session: Session, retention: Sequence[tuple[str, float]], *, actor: str) -> int:
    """Erase a page of the cases whose time is over; return how many. `retention` is source and days, `*` for others."""
    named = [source for source, _ in retention if source != "*"]
    erased = 0
    for source, days in retention:
        wanted = None if source == "*" else source
        for case_id in cases_past(session, days, source=wanted, but=named):
            erased += erase_case(session, case_id, actor=actor)
    return erased
