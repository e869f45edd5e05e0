"""Taking away what a case that ended says about somebody, while the decision and the log of events stay.

Erased are the reason, context and ids the platform sent, the place of the image and its digest, the message of a
refusal, all evidence, rationales, replies, landmarks, maps of faces, questions and answers, the words of decisions and
appeals, and what webhooks carried and were answered. Verdicts, effects, outcomes, who looked and when, and the chain of
events stay: it holds no text, and verifies as before. It does hold the digest of the request that opened the case,
which cannot go without breaking it.
"""

import enum
from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from moderation.database.questions import ERASED, end_questions_of

_DAY = 86_400


def erase_case(session: Session, case_id: UUID, *, actor: str, keep_hash: bool = False) -> bool:
    """Erase a case that was decided or withdrawn, once and for ever.

    False: there is none, it is neither, its decision can still be undone, it is erased already, lies in an archive,
    or a platform is still to be told of it. What is asked about it and not answered yet ends here, and so does what
    waits for an endpoint that is disabled.

    What the picture looks like goes too, unless `keep_hash`: then a copy that comes again is still found to be one.
    """
    session.execute(select(func.set_config("bonafide.keep_hashes", "on" if keep_hash else "", True)))  # noqa: FBT003  for this transaction
    erased = bool(session.scalar(select(func.erase_case(case_id, actor))))
    if erased:
        end_questions_of(session, case_id, ERASED)
    return erased


#: Decided cases that are not erased, here or in archives: an index holds either by source and time.
_HERE = "c.state = 'decided' AND c.erased_at IS NULL AND c.archive_id IS NULL"
_ARCHIVED = "c.state = 'decided' AND c.erased_at IS NULL AND c.archive_id IS NOT NULL"
#: Those that their platforms took back. None of them is archived.
_WITHDRAWN = "c.state = 'withdrawn' AND c.erased_at IS NULL"
#: Not those that `erase_case` would refuse for what a platform is still to be told: a page of these, each time the
#: same, would keep all others waiting.
_TOLD = """NOT EXISTS (
            SELECT FROM deliveries d JOIN endpoints e ON e.id = d.endpoint_id
            WHERE d.case_id = c.id AND d.delivered_at IS NULL AND d.dead_at IS NULL AND e.disabled_at IS NULL)"""

#: The oldest of one source.
_PAST = """
    SELECT c.id FROM cases c
    WHERE {there} AND c.source = :source AND c.{ended} < now() - make_interval(secs => :seconds) AND {fit}
    ORDER BY c.{ended} LIMIT :limit
"""
#: The oldest of every source but those in `but`: the sources are stepped through one by one (PostgreSQL wiki, "Loose
#: indexscan") and each gives its oldest. What other sources keep for longer is never read, however much it is.
#: Cost: two looks into the index per source.
_PAST_OF_OTHERS = """
    WITH RECURSIVE known AS (
        (SELECT c.source FROM cases c WHERE {there} ORDER BY c.source LIMIT 1)
        UNION ALL
        SELECT (SELECT c.source FROM cases c WHERE {there} AND c.source > known.source ORDER BY c.source LIMIT 1)
        FROM known WHERE known.source IS NOT NULL
    )
    SELECT old.id FROM known, LATERAL (
        SELECT c.id, c.{ended} FROM cases c
        WHERE {there} AND c.source = known.source AND c.{ended} < now() - make_interval(secs => :seconds) AND {fit}
        ORDER BY c.{ended} LIMIT :limit
    ) AS old
    WHERE known.source IS NOT NULL AND known.source <> ALL(CAST(:but AS text[]))
    ORDER BY old.{ended} LIMIT :limit
"""


class Kept(enum.Enum):
    """Of which cases that ended what they say is kept, and where."""

    HERE = enum.auto()
    ARCHIVED = enum.auto()
    WITHDRAWN = enum.auto()


_OF = {
    Kept.HERE: {"there": _HERE, "ended": "decided_at", "fit": _TOLD},
    Kept.ARCHIVED: {"there": _ARCHIVED, "ended": "decided_at", "fit": "true"},
    Kept.WITHDRAWN: {"there": _WITHDRAWN, "ended": "withdrawn_at", "fit": _TOLD},
}
PAST = {kept: text(_PAST.format(**parts)) for kept, parts in _OF.items()}
PAST_OF_OTHERS = {kept: text(_PAST_OF_OTHERS.format(**parts)) for kept, parts in _OF.items()}


def cases_past(
    session: Session,
    days: float,
    *,
    source: str | None,
    but: Collection[str] = (),
    kept: Kept = Kept.HERE,
    limit: int = 100,
) -> Sequence[UUID]:
    """Cases that ended longer ago than so many days and are not erased, the oldest first.

    Of one source; of all sources but those in `but` when None. Those that were decided and are here, or are archived,
    which `moderation.archive` takes out of their objects first, or were withdrawn. Not those here that a platform is
    still to be told of.
    """
    values = {"seconds": days * _DAY, "limit": limit}
    if source is None:
        return session.scalars(PAST_OF_OTHERS[kept], {**values, "but": list(but)}).all()
    return session.scalars(PAST[kept], {**values, "source": source}).all()


def erase_past(
    session: Session, retention: Sequence[tuple[str, float]], *, actor: str, keep_hashes: bool = False
) -> int:
    """Erase a page of the cases whose time is over; return how many. `retention` is source and days, `*` for others."""
    named = [source for source, _ in retention if source != "*"]
    erased = 0
    for source, days in retention:
        wanted = None if source == "*" else source
        for kept in (Kept.HERE, Kept.WITHDRAWN):
            for case_id in cases_past(session, days, source=wanted, but=named, kept=kept):
                erased += erase_case(session, case_id, actor=actor, keep_hash=keep_hashes)
    return erased
