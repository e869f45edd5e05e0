"""Renditions in the database: a thumbnail of each case's picture, and a copy when browsers cannot show the file.

They lie in Postgres, not in the bucket. A trigger on the case deletes them in the transaction that erases or archives
it: nothing is left for another process, and no bucket keeps an older version. And no worker needs the right to write
where platforms keep their images.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, literal, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.cases import CaseState
from moderation.database.tables import AnalysisRow, CaseRow, RenditionRow

#: Formats that browsers do not show. Safari does, but reviewers use other browsers too.
NOT_SHOWN = frozenset(("TIFF", "HEIC"))


@dataclass(frozen=True)
class Renditions:
    """The renditions of one picture, upright and as the model saw it."""

    #: JPEG, 192 pixels at its longer side.
    thumbnail: bytes
    #: JPEG. None: browsers show the file itself.
    shown: bytes | None


def record_renditions(
    session: Session, case_id: UUID, renditions: Renditions, *, sha256: str | None = None
) -> None:
    """Store renditions in the transaction that stores the analysis or the refusal. They replace earlier ones.

    Do nothing when the case is erased, archived or withdrawn, or when its analyses are of bytes with another digest.
    None: it has no analysis.
    """
    other = select(AnalysisRow.id).where(AnalysisRow.case_id == CaseRow.id)
    if sha256 is not None:
        other = other.where(AnalysisRow.image_sha256 != bytes.fromhex(sha256))
    row = select(
        CaseRow.id, literal(renditions.thumbnail), literal(renditions.shown, RenditionRow.shown.type)
    ).where(
        CaseRow.id == case_id,
        CaseRow.erased_at.is_(None),
        CaseRow.archive_id.is_(None),
        CaseRow.state != CaseState.WITHDRAWN,
        ~other.exists(),
    )
    insert = upsert(RenditionRow).from_select(["case_id", "thumbnail", "shown"], row)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=[RenditionRow.case_id],
            set_={
                "thumbnail": insert.excluded.thumbnail,
                "shown": insert.excluded.shown,
                "created_at": func.now(),
            },
        )
    )


def renditions_of(session: Session, case_id: UUID) -> Renditions | None:
    """The case's renditions. None: it has none, or they were deleted."""
    row = session.get(RenditionRow, case_id)
    return None if row is None else Renditions(row.thumbnail, row.shown)


def find_thumbnail(session: Session, case_id: UUID) -> bytes | None:
    """The thumbnail as JPEG. None: there is none."""
    return session.scalar(select(RenditionRow.thumbnail).where(RenditionRow.case_id == case_id))


def find_viewable(session: Session, case_id: UUID) -> bytes | None:
    """The copy for browsers as JPEG. None: browsers show the file itself, or there is no copy."""
    return session.scalar(select(RenditionRow.shown).where(RenditionRow.case_id == case_id))


def is_rendered(session: Session, case_id: UUID) -> bool:
    """Whether a rendition is shown instead of the file."""
    found = select(RenditionRow.case_id).where(
        RenditionRow.case_id == case_id, RenditionRow.shown.is_not(None)
    )
    return session.scalar(found) is not None


def with_thumbnails(session: Session, case_ids: Collection[UUID]) -> set[UUID]:
    """The cases, of these, that have a thumbnail at `/cases/ID/thumbnail`."""
    found = select(RenditionRow.case_id).where(RenditionRow.case_id.in_(case_ids))
    return set(session.scalars(found))


#: Renditions deleted in one transaction, so that it stays short.
FORGET_PAGE = 1000
_FORGET = text("""
    DELETE FROM renditions WHERE case_id IN (
        SELECT r.case_id FROM renditions r JOIN cases c ON c.id = r.case_id
        WHERE r.created_at < now() - make_interval(days => :days)
          AND c.state = 'decided' AND c.decided_at < now() - make_interval(days => :days)
        ORDER BY r.created_at LIMIT :limit
    ) RETURNING case_id
""")


def forget_renditions(session: Session, *, days: int, limit: int = FORGET_PAGE) -> int:
    """Delete a page of renditions of cases that were decided more than so many days ago; return how many."""
    return len(session.execute(_FORGET, {"days": days, "limit": limit}).all())
