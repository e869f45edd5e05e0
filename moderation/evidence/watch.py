"""The numbers by which a source's recent pictures are compared with earlier ones: from the database, with NumPy."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import isfinite, log
from typing import Any
from uuid import UUID

from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from moderation.database.ids import first_id_at
from moderation.database.tables import DriftLookRow
from moderation.evidence.drift import LATE_AT_MOST, REFERENCE_AT_MOST, VIEW, SourceDrift, doubt_of, look

#: Sources that are checked: those with the most recent cases.
WATCHED_SOURCES = 50

_SOURCES = text("""
    SELECT c.source, count(*) AS n FROM analyses a JOIN cases c ON c.id = a.case_id AND c.analysis_id = a.id
    WHERE a.id >= :first AND a.id < :last AND a.fingerprint = :fingerprint
    GROUP BY c.source ORDER BY n DESC, c.source LIMIT :limit
""")

#: One case for each group of similar pictures: a campaign counts as one picture and is no drift.
_CASES = text("""
    SELECT * FROM (
        SELECT DISTINCT ON (coalesce(c.campaign::text, c.id::text)) a.id, a.case_id, a.verdict, a.picture,
               jsonb_array_length(a.faces) AS faces, a.faces -> 0 -> 'view' AS view
        FROM analyses a JOIN cases c ON c.id = a.case_id AND c.analysis_id = a.id
        WHERE a.id >= :first AND a.id < :last AND a.fingerprint = :fingerprint AND c.source = :source
        ORDER BY coalesce(c.campaign::text, c.id::text), a.id
    ) AS pictures ORDER BY id DESC LIMIT :limit
""")

_WINDOW = text("""
    SELECT since, until FROM certificates
    WHERE fingerprint = :fingerprint AND revoked_at IS NULL AND (source IS NULL OR source = :source)
    ORDER BY (source IS NOT NULL) DESC, (used_since IS NOT NULL) DESC, id DESC LIMIT 1
""")


@dataclass(frozen=True)
class Watched:
    """One source, and its recent cases that are least like earlier ones."""

    look: SourceDrift
    examples: tuple[UUID, ...]


def numbers_of(
    verdict: Mapping[str, Any], picture: Mapping[str, Any], faces: int, view: Sequence[float] | None = None
) -> dict[str, float | None]:
    """The numbers of a case to compare. `view`: how the model's tower sees the deciding face, see `FaceAnalysis`."""
    pixels = max(1, picture["width"] * picture["height"])
    seen = {f"{VIEW}{number}": float(value) for number, value in enumerate(view or ())}
    return seen | {
        "margin": verdict.get("margin"),
        "faces": float(faces),
        "pixels": log(pixels),
        "aspect": log(picture["width"] / picture["height"]),
        "bytes_per_pixel": log(max(1, picture["size"]) / pixels),
    }


def look_at_sources(
    session: Session, fingerprint: str, *, now: datetime, late: timedelta, before: timedelta
) -> list[Watched]:
    """Look at every source with recent cases. A source with a certificate is compared with the certificate's days."""
    start = now - late
    values = {"fingerprint": fingerprint, "first": first_id_at(start), "last": first_id_at(now)}
    sources = [row.source for row in session.execute(_SOURCES, {**values, "limit": WATCHED_SOURCES})]
    doubt = doubt_of(len(sources))
    seen: list[Watched] = []
    for source in sources:
        window = session.execute(_WINDOW, {"fingerprint": fingerprint, "source": source}).first()
        since, until = (start - before, start) if window is None else (window.since, min(window.until, start))
        ours = _cases(session, fingerprint, source, since, until, REFERENCE_AT_MOST)
        theirs = _cases(session, fingerprint, source, start, now, LATE_AT_MOST)
        found = look(
            source,
            [numbers for _, numbers in ours],
            [numbers for _, numbers in theirs],
            doubt=doubt,
            seed=zlib.crc32(source.encode()),
        )
        seen.append(Watched(found, tuple(theirs[at][0] for at in found.examples)))
    return seen


def keep(session: Session, fingerprint: str, seen: Sequence[Watched]) -> None:
    """Store the findings. The newest one of each source shows its state."""
    for watched in seen:
        found = watched.look
        session.execute(
            insert(DriftLookRow).values(
                source=found.source,
                fingerprint=fingerprint,
                before=found.before,
                late=found.late,
                p=found.p,
                doubt=found.doubt,
                alarm=found.alarm,
                shifted=[
                    vars(each) for each in found.shifted if isfinite(each.before) and isfinite(each.late)
                ],
                examples=list(watched.examples),
            )
        )


def _cases(
    session: Session, fingerprint: str, source: str, since: datetime, until: datetime, limit: int
) -> list[tuple[UUID, dict[str, float | None]]]:
    """The newest cases, at most so many, the oldest first."""
    values = {
        "fingerprint": fingerprint,
        "source": source,
        "first": first_id_at(since),
        "last": first_id_at(until),
        "limit": limit,
    }
    rows = session.execute(_CASES, values).all()
    return [
        (row.case_id, numbers_of(row.verdict, row.picture, row.faces, row.view)) for row in reversed(rows)
    ]
