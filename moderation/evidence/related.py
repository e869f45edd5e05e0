"""Related cases: similar pictures, here and on the lists of others.

A likeness is only shown. Nothing here reads or writes a verdict or a decision.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from uuid import UUID

from sqlalchemy import delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.database.shapes import change_rows, delete_rows
from moderation.database.tables import HASHES, CaseHashRow, CaseRow, HashListRow, ListedHashRow
from moderation.decisions import Outcome
from moderation.evidence.words import Evidence, Fact, FactKind, Strength, Value
from moderation.evidence.words import text as text_of
from moderation.likeness import Faces, Likeness, compare_faces, from_hex, to_bits, to_hex
from moderation.people import RULE

#: Cases that are shown beside one, the nearest first.
SHOWN_AT_MOST = 50
#: Lists, at most, that a case notes as knowing its picture.
LISTS_AT_MOST = 5

#: Only the newest cases of each hash, so that a picture with a hundred thousand flags costs no more than one with
#: fifty.
_RELATED = text("""
    WITH ours AS (
        SELECT c.case_id, h.hash, c.mirrored FROM case_hashes c JOIN hashes h ON h.id = c.hash_id
        WHERE c.case_id = :case_id
    ), near AS (
        SELECT DISTINCT ON (hash_id) hash_id, distance, mirrored FROM (
            SELECT hash_id, distance, false AS mirrored FROM ours, near_hashes(ours.hash)
            UNION ALL
            SELECT hash_id, distance, true FROM ours, near_hashes(ours.mirrored)
        ) AS found ORDER BY hash_id, distance
    )
    SELECT other.case_id, near.distance, near.mirrored, other.faces
    FROM near, LATERAL (
        SELECT case_id, faces FROM case_hashes
        WHERE hash_id = near.hash_id AND case_id <> :case_id ORDER BY case_id DESC LIMIT :limit
    ) AS other
    ORDER BY near.distance, other.case_id DESC LIMIT :limit
""")

_LISTED = text("""
    WITH ours AS (
        SELECT h.hash, c.mirrored FROM case_hashes c JOIN hashes h ON h.id = c.hash_id WHERE c.case_id = :case_id
    ), near AS (
        SELECT hash_id, min(distance) AS distance FROM (
            SELECT hash_id, distance FROM ours, near_hashes(ours.hash)
            UNION ALL
            SELECT hash_id, distance FROM ours, near_hashes(ours.mirrored)
        ) AS found GROUP BY hash_id
    )
    SELECT DISTINCT ON (l.name) l.name, l.note, e.reference, near.distance
    FROM near JOIN listed_hashes e ON e.hash_id = near.hash_id JOIN hash_lists l ON l.id = e.list_id
    ORDER BY l.name, near.distance, e.reference
""")


@dataclass(frozen=True)
class Related:
    """Another case with a similar picture."""

    case_id: UUID
    #: Bits in which the two hashes differ, from 0 to `likeness.NEAR`.
    distance: int
    #: Whether it looks like the mirrored picture.
    mirrored: bool
    faces: Faces
    #: Bits in which the faces differ. None when one of the two has no hashed face.
    face_distance: int | None


@dataclass(frozen=True)
class ListMatch:
    """A list with a hash near the case's hash."""

    name: str
    note: str | None
    #: The list's reference for it. None when it has none.
    reference: str | None
    distance: int


def record_likeness(session: Session, case_id: UUID, likeness: Likeness) -> None:
    """Store the likeness of the case's picture, in the transaction of its analysis. The first one stays.

    Do nothing for an erased case.
    """
    if not session.scalar(select(CaseRow.erased_at.is_(None)).where(CaseRow.id == case_id)):
        return
    hash_id, campaign = _put(session, likeness.frame)
    written = session.execute(
        upsert(CaseHashRow)
        .values(
            case_id=case_id,
            hash_id=hash_id,
            mirrored=to_bits(likeness.mirrored),
            quality=likeness.quality,
            faces=[to_hex(face) for face in likeness.faces],
        )
        .on_conflict_do_nothing()
        .returning(literal(1))
    ).first()
    if written is not None:
        change_rows(session, CaseRow, CaseRow.id == case_id, campaign=campaign)


def likeness_of(session: Session, case_id: UUID) -> Likeness | None:
    """The likeness of the case's picture. None: it was not hashed, shows too little, or is erased."""
    row = session.execute(
        select(HASHES.c.hash, CaseHashRow)
        .join(CaseHashRow, CaseHashRow.hash_id == HASHES.c.id)
        .where(CaseHashRow.case_id == case_id)
    ).first()
    if row is None:
        return None
    stored: CaseHashRow = row[1]
    return Likeness(
        int(row[0], 2), int(stored.mirrored, 2), stored.quality, tuple(map(from_hex, stored.faces))
    )


def _put(session: Session, value: int) -> tuple[int, int]:
    """The id of a case's hash and of its campaign's leader. The hash is locked, so that nobody removes it before use.

    A hash that is new for cases joins the campaign of the nearest leader. Two that come at the same moment may both
    lead. A hash that only lists have leads nothing.
    """
    statement = upsert(HASHES).values(hash=to_bits(value))
    row = session.execute(
        statement.on_conflict_do_update(
            constraint="hashes_once", set_={"hash": statement.excluded.hash}
        ).returning(HASHES.c.id, HASHES.c.leader)
    ).one()
    if session.scalar(select(select(CaseHashRow).where(CaseHashRow.hash_id == row.id).exists())):
        return row.id, row.leader or row.id
    leader = session.scalar(
        text("""
            SELECT near.hash_id FROM near_hashes(CAST(:hash AS bit(256))) AS near JOIN hashes h ON h.id = near.hash_id
            WHERE h.leader IS NULL AND h.id <> :id AND EXISTS (SELECT FROM case_hashes WHERE hash_id = h.id)
            ORDER BY near.distance, h.id LIMIT 1
        """),
        {"hash": to_bits(value), "id": row.id},
    )
    session.execute(update(HASHES).where(HASHES.c.id == row.id).values(leader=leader))
    return row.id, leader or row.id


def related_to(session: Session, case_id: UUID, *, at_most: int = SHOWN_AT_MOST) -> list[Related]:
    """Cases with pictures like this one or its mirror image: the nearest first, then the newest."""
    ours = session.scalar(select(CaseHashRow.faces).where(CaseHashRow.case_id == case_id))
    if ours is None:
        return []
    faces = [from_hex(face) for face in ours]
    return [
        Related(row.case_id, row.distance, row.mirrored, *_compare(faces, row.faces, mirrored=row.mirrored))
        for row in session.execute(_RELATED, {"case_id": case_id, "limit": at_most})
    ]


def _compare(ours: Sequence[int], theirs: Sequence[str], *, mirrored: bool) -> tuple[Faces, int | None]:
    """Compare the faces. Mirrored faces have other hashes and are not compared."""
    return (Faces.UNCLEAR, None) if mirrored else compare_faces(ours, [from_hex(face) for face in theirs])


def lists_with(session: Session, case_id: UUID) -> list[ListMatch]:
    """The lists with a hash near that of the case's picture, each once with its nearest hash."""
    if not session.scalar(select(select(ListedHashRow).exists())):
        return []  # most installations have no lists, and save two searches
    return [ListMatch(*row) for row in session.execute(_LISTED, {"case_id": case_id})]


def with_lists(session: Session, case_id: UUID, evidence: Evidence) -> Evidence:
    """The evidence with new facts about lists that know the picture, the nearest first, instead of older ones."""
    nearest = sorted(lists_with(session, case_id), key=lambda match: (match.distance, match.name))
    own = [fact for fact in evidence.facts if fact.kind is not FactKind.KNOWN_PICTURE]
    return replace(evidence, facts=(*own, *map(_known, nearest[:LISTS_AT_MOST])))


def _known(match: ListMatch) -> Fact:
    said: dict[str, Value] = {"list": text_of(match.name), "distance": match.distance}
    if match.reference is not None:
        said["reference"] = text_of(match.reference)
    return Fact(FactKind.KNOWN_PICTURE, Strength.CONTEXT, said)


# --- campaigns


@dataclass(frozen=True)
class Campaign:
    """A group of pictures that look like its leader."""

    id: int
    #: Its ready cases. Counting stops at `COUNT_AT_MOST`.
    ready: int


#: Counting stops here, as for the queue.
COUNT_AT_MOST = 1000


def campaigns_of(session: Session, ids: Iterable[int]) -> dict[int, Campaign]:
    """The number of ready cases of each campaign."""
    query = text(f"""
        SELECT asked.id, (SELECT count(*) FROM (
            SELECT FROM cases WHERE state = 'ready' AND campaign = asked.id LIMIT {COUNT_AT_MOST}) AS few) AS ready
        FROM unnest(CAST(:ids AS integer[])) AS asked(id)
    """)  # noqa: S608  a number of ours
    return {row.id: Campaign(row.id, row.ready) for row in session.execute(query, {"ids": sorted(set(ids))})}


# --- lists of others

#: Hashes of a list in one statement.
_PAGE = 1000

#: It locks existing hashes, so that nobody removes them before use.
_PUT_HASHES = text("""
    INSERT INTO hashes (hash) SELECT CAST(one AS bit(256)) FROM unnest(CAST(:hashes AS text[])) AS one ORDER BY one
    ON CONFLICT (hash) DO UPDATE SET hash = excluded.hash
""")

_PUT_LISTED = text("""
    INSERT INTO listed_hashes (list_id, hash_id, reference)
    SELECT :list_id, h.id, new.reference
    FROM unnest(CAST(:hashes AS text[]), CAST(:references AS text[])) AS new(hash, reference)
    JOIN hashes h ON h.hash = CAST(new.hash AS bit(256))
    ON CONFLICT DO NOTHING RETURNING hash_id
""")


def _batched(items: Iterable[tuple[int, str | None]]) -> Iterator[list[tuple[int, str | None]]]:
    left = iter(items)
    while page := list(islice(left, _PAGE)):
        yield page


def put_list(session: Session, name: str, note: str | None, entries: Iterable[tuple[int, str | None]]) -> int:
    """Add hashes with references to a list, and create the list if needed; return how many were new to it."""
    made = upsert(HashListRow).values(name=name, note=note)
    list_id = session.scalars(
        made.on_conflict_do_update(
            constraint="hash_lists_name", set_={"note": func.coalesce(made.excluded.note, HashListRow.note)}
        ).returning(HashListRow.id)
    ).one()
    unique, added = dict(entries), 0
    for page in _batched(unique.items()):
        values = {
            "list_id": list_id,
            "hashes": [to_bits(value) for value, _ in page],
            "references": [reference for _, reference in page],
        }
        session.execute(_PUT_HASHES, values)
        added += len(session.execute(_PUT_LISTED, values).all())
    return added


@dataclass(frozen=True)
class HashList:
    name: str
    note: str | None
    created_at: datetime
    hashes: int


def hash_lists(session: Session) -> list[HashList]:
    counted = (
        select(HashListRow.name, HashListRow.note, HashListRow.created_at, func.count(ListedHashRow.hash_id))
        .outerjoin(ListedHashRow, ListedHashRow.list_id == HashListRow.id)
        .group_by(HashListRow.id)
        .order_by(HashListRow.name)
    )
    return [HashList(*row) for row in session.execute(counted)]


def remove_list(session: Session, name: str) -> bool:
    """Delete a list and the hashes that only it had. False: no list has this name."""
    list_id = session.scalar(select(HashListRow.id).where(HashListRow.name == name).with_for_update())
    if list_id is None:
        return False
    hashes = session.scalars(
        delete(ListedHashRow).where(ListedHashRow.list_id == list_id).returning(ListedHashRow.hash_id)
    ).all()
    delete_rows(session, HashListRow, HashListRow.id == list_id)
    # Lock them before the check: anybody who wants to use one locks it too.
    session.execute(
        text("SELECT FROM hashes WHERE id = ANY (:ids) ORDER BY id FOR UPDATE"), {"ids": list(hashes)}
    )
    session.execute(
        text("""
            DELETE FROM hashes h WHERE id = ANY (:ids)
                AND NOT EXISTS (SELECT FROM case_hashes WHERE hash_id = h.id)
                AND NOT EXISTS (SELECT FROM listed_hashes WHERE hash_id = h.id)
        """),
        {"ids": list(hashes)},
    )
    return True


def hashes_of_list(session: Session, name: str) -> Iterator[tuple[int, str | None]]:
    """The hashes of a list with their references, in the order in which they were stored."""
    rows = session.execute(
        select(HASHES.c.hash, ListedHashRow.reference)
        .join(ListedHashRow, ListedHashRow.hash_id == HASHES.c.id)
        .join(HashListRow, HashListRow.id == ListedHashRow.list_id)
        .where(HashListRow.name == name)
        .order_by(HASHES.c.id)
    )
    return ((int(value, 2), reference) for value, reference in rows)


def hashes_decided(session: Session, outcome: Outcome) -> Iterator[tuple[int, str | None]]:
    """The hashes of pictures with this outcome, each with its newest such case.

    Only final decisions by people count.
    """
    rows = session.execute(
        text("""
            SELECT DISTINCT ON (h.id) h.hash, c.case_id
            FROM case_hashes c JOIN hashes h ON h.id = c.hash_id
            JOIN cases k ON k.id = c.case_id AND k.state = 'decided'
            JOIN LATERAL (
                SELECT outcome, final_at, person_id FROM decisions d WHERE d.case_id = c.case_id AND d.undone_at IS NULL
                ORDER BY d.created_at DESC, d.id DESC LIMIT 1
            ) AS standing ON standing.outcome = :outcome AND standing.final_at <= now() AND standing.person_id <> :rule
            ORDER BY h.id, c.case_id DESC
        """),
        {"outcome": outcome.value, "rule": RULE},
    )
    return ((int(value, 2), str(case_id)) for value, case_id in rows)
