"""Taking away what a decided case says about somebody, while the decision and the log of events stay.

Erased are the reason, context and ids the platform sent, the place of the image and its digest, rationales, replies,
landmarks, questions and answers, the words of decisions and appeals, and what webhooks carried. Verdicts, outcomes, who
looked and when, and the chain of events stay: it holds no text, and verifies as before.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from moderation.cases import CaseState
from moderation.database.moves import seconds
from moderation.database.questions import ERASED, end_questions_of
from moderation.database.tables import CaseRow

_DAY = 86_400


def erase_case(session: Session, case_id: UUID, *, actor: str) -> bool:
    """Erase a decided case, once and for ever.

    False: there is none, it is not decided, is erased already, lies in an archive, or a platform is still to be told
    of it. What is asked about it and not answered yet ends here.
    """
    erased = bool(session.scalar(select(func.erase_case(case_id, actor))))
    if erased:
        end_questions_of(session, case_id, ERASED)
    return erased


#: The oldest decided cases of every source but those in `but`, from one index: it holds them by source and time, so the
#: sources are stepped through one by one (PostgreSQL wiki, "Loose indexscan") and each gives its oldest. What other
#: sources keep for longer is never read, however much it is. Cost: two looks into the index per source.
PAST_OF_OTHERS = text("""
    WITH RECURSIVE known AS (
        (SELECT source FROM cases WHERE state = 'decided' AND erased_at IS NULL ORDER BY source LIMIT 1)
        UNION ALL
        SELECT (SELECT c.source FROM cases c
                WHERE c.state = 'decided' AND c.erased_at IS NULL AND c.source > known.source
                ORDER BY c.source LIMIT 1)
        FROM known WHERE known.source IS NOT NULL
    )
    SELECT old.id FROM known, LATERAL (
        SELECT c.id, c.decided_at FROM cases c
        WHERE c.state = 'decided' AND c.erased_at IS NULL AND c.archive_id IS NULL AND c.source = known.source
          AND c.decided_at < now() - make_interval(secs => :seconds)
        ORDER BY c.decided_at LIMIT :limit
    ) AS old
    WHERE known.source IS NOT NULL AND known.source <> ALL(CAST(:but AS text[]))
    ORDER BY old.decided_at LIMIT :limit
""")


def cases_past(
    session: Session, days: float, *, source: str | None, but: Collection[str] = (), limit: int = 100
) -> Sequence[UUID]:
    """Decided cases that were decided longer ago than so many days and are not erased, the oldest first.

    Of one source; of all sources but those in `but` when None. Not those that lie in an archive: `moderation.archive`
    takes them out of it first.
    """
    if source is None:
        values = {"seconds": days * _DAY, "but": list(but), "limit": limit}
        return session.scalars(PAST_OF_OTHERS, values).all()
    query = (
        select(CaseRow.id)
        .where(
            CaseRow.source == source,
            CaseRow.state == CaseState.DECIDED,
            CaseRow.erased_at.is_(None),
            CaseRow.archive_id.is_(None),
            CaseRow.decided_at < func.now() - seconds(days * _DAY),
        )
        .order_by(CaseRow.decided_at)
        .limit(limit)
    )
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
