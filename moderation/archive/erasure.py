"""Erases what an ended case says about people. The decision and the log of events stay.

Erased: the platform's reason, context and ids; the place and digest of the image; the message of a refusal; evidence,
rationales, replies, landmarks, maps of faces; questions and answers; the words of decisions and appeals; the contents
of webhooks and the answers to them. Verdicts, effects, outcomes, who looked and when, and the chain of events stay. The
chain holds no text and still verifies. It holds the digest of the request that opened the case, which cannot be removed
without breaking it.
"""

import enum
from collections.abc import Collection, Iterator, Sequence
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from moderation.cases import Case, CaseState
from moderation.database.questions import ERASED, end_questions_of
from moderation.database.shapes import known_sources
from moderation.errors import CaseArchived, TransitionRefused

_DAY = 86_400


def erase_case(session: Session, case_id: UUID, *, actor: str, keep_hash: bool = False) -> bool:
    """Erase a case that was decided or withdrawn, for ever.

    False: there is no such case, it is in another state, its decision can still be undone, it is already erased or
    archived, or a webhook about it is not sent yet. Open questions about it end, and so do webhooks for disabled
    endpoints.

    The picture's hash is erased too, unless `keep_hash`: then a later copy is still recognised.
    """
    session.execute(select(func.set_config("bonafide.keep_hashes", "on" if keep_hash else "", True)))  # noqa: FBT003  for this transaction
    erased = bool(session.scalar(select(func.erase_case(case_id, actor))))
    if erased:
        end_questions_of(session, case_id, ERASED)
    return erased


def not_erased(case: Case) -> TransitionRefused:
    """Why `erase_case` left this case as it is."""
    if case.archive_id is not None:
        return CaseArchived("this case is archived: an operator erases it with `bonafide erase`")
    if case.state not in (CaseState.DECIDED, CaseState.WITHDRAWN):
        return TransitionRefused(
            f"this case is {case.state}: it can be erased once it is decided or withdrawn"
        )
    return TransitionRefused(
        "this case's decision can still be undone, or a webhook about it is still to be sent: try again later"
    )


#: Decided cases that are not erased. An index by source and time holds those here, another those in archives.
_HERE = "c.state = 'decided' AND c.erased_at IS NULL AND c.archive_id IS NULL"
_ARCHIVED = "c.state = 'decided' AND c.erased_at IS NULL AND c.archive_id IS NOT NULL"
#: Cases that their platforms took back. None of them is archived.
_WITHDRAWN = "c.state = 'withdrawn' AND c.erased_at IS NULL"
#: Without cases that `erase_case` would refuse because of a webhook: the same page of them would come every time and
#: keep all others waiting.
_TOLD = """NOT EXISTS (
            SELECT FROM deliveries d JOIN endpoints e ON e.id = d.endpoint_id
            WHERE d.case_id = c.id AND d.delivered_at IS NULL AND d.dead_at IS NULL AND e.disabled_at IS NULL)"""

#: The oldest cases of one source.
_PAST = """
    SELECT c.id FROM cases c
    WHERE {there} AND c.source = :source AND c.{ended} < now() - make_interval(secs => :seconds) AND {fit}
    ORDER BY c.{ended} LIMIT :limit
"""
#: The oldest cases of every source except those in `but`. Cases that are kept longer are never read.
_PAST_OF_OTHERS = """
    WITH RECURSIVE {known}
    SELECT old.id FROM known, LATERAL (
        SELECT c.id, c.{ended} FROM cases c
        WHERE {there} AND c.source = known.source AND c.{ended} < now() - make_interval(secs => :seconds) AND {fit}
        ORDER BY c.{ended} LIMIT :limit
    ) AS old
    WHERE known.source IS NOT NULL AND known.source <> ALL(CAST(:but AS text[]))
    ORDER BY old.{ended} LIMIT :limit
"""


class Kept(enum.Enum):
    """A kind of ended cases that are not erased, and where they lie."""

    HERE = enum.auto()
    ARCHIVED = enum.auto()
    WITHDRAWN = enum.auto()


_OF = {
    Kept.HERE: {"there": _HERE, "ended": "decided_at", "fit": _TOLD},
    Kept.ARCHIVED: {"there": _ARCHIVED, "ended": "decided_at", "fit": "true"},
    Kept.WITHDRAWN: {"there": _WITHDRAWN, "ended": "withdrawn_at", "fit": _TOLD},
}
PAST = {kept: text(_PAST.format(**parts)) for kept, parts in _OF.items()}
PAST_OF_OTHERS = {
    kept: text(_PAST_OF_OTHERS.format(known=known_sources(parts["there"]), **parts))
    for kept, parts in _OF.items()
}


def cases_past(
    session: Session,
    days: float,
    *,
    source: str | None,
    but: Collection[str] = (),
    kept: Kept = Kept.HERE,
    limit: int = 100,
) -> Sequence[UUID]:
    """Cases that ended more than so many days ago and are not erased, the oldest first.

    They are of one source, or with None of all sources except those in `but`. `kept` chooses decided cases here,
    archived ones (the archiver takes them out first) or withdrawn ones. Cases here with an unsent webhook are left out.
    """
    values = {"seconds": days * _DAY, "limit": limit}
    if source is None:
        return session.scalars(PAST_OF_OTHERS[kept], {**values, "but": list(but)}).all()
    return session.scalars(PAST[kept], {**values, "source": source}).all()


def erase_past(
    session: Session, retention: Sequence[tuple[str, float]], *, actor: str, keep_hashes: bool = False
) -> int:
    """Erase a page of cases whose retention is over; return how many."""
    return sum(
        erase_case(session, case_id, actor=actor, keep_hash=keep_hashes)
        for case_id in all_past(session, retention, Kept.HERE, Kept.WITHDRAWN)
    )


def all_past(
    session: Session, retention: Sequence[tuple[str, float]], *kinds: Kept, limit: int = 100
) -> Iterator[UUID]:
    """Cases whose retention is over: a page for each rule and kind. `retention`: source and days, `*` for others."""
    named = [source for source, _ in retention if source != "*"]
    for source, days in retention:
        wanted = None if source == "*" else source
        for kept in kinds:
            yield from cases_past(session, days, source=wanted, but=named, kept=kept, limit=limit)
