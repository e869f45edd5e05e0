"""The numbers by which a source's pictures of late are held against those before: from the database, with NumPy."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import log
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.database.ids import first_id_at
from moderation.evidence.drift import LATE_AT_MOST, REFERENCE_AT_MOST, Look, doubt_of, look

#: Sources that are looked at: those with the most cases of late.
SOURCES_AT_MOST = 50

_SOURCES = text("""
    SELECT c.source, count(*) AS n FROM analyses a JOIN cases c ON c.id = a.case_id AND c.analysis_id = a.id
    WHERE a.id >= :first AND a.id < :last AND a.fingerprint = :fingerprint
    GROUP BY c.source ORDER BY n DESC, c.source LIMIT :limit
""")

#: One case for each picture and those that look like it: a campaign is one picture and no drift.
_CASES = text("""
    SELECT * FROM (
        SELECT DISTINCT ON (coalesce(c.campaign::text, c.id::text)) a.id, a.case_id, a.verdict, a.picture,
               jsonb_array_length(a.faces) AS faces
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
    """One source, and the late cases that are least like those before."""

    look: Look
    examples: tuple[UUID, ...]


def numbers_of(verdict: Mapping[str, Any], picture: Mapping[str, Any], faces: int) -> dict[str, float | None]:
    """What is compared of a case. A projection of the model's own view of the picture joins them once it is kept."""
    pixels = max(1, picture["width"] * picture["height"])
    return {
        "margin": verdict.get("margin"),
        "faces": float(faces),
        "pixels": log(pixels),
        "aspect": log(picture["width"] / picture["height"]),
        "bytes_per_pixel": log(max(1, picture["size"]) / pixels),
    }


def look_at_sources(
    session: Session, fingerprint: str, *, now: datetime, late: timedelta, before: timedelta
) -> list[Watched]:
    """Look at every source that has cases of late. Held against the days of its certificate where it has one."""
    start = now - late
    values = {"fingerprint": fingerprint, "first": first_id_at(start), "last": first_id_at(now)}
    sources = [row.source for row in session.execute(_SOURCES, {**values, "limit": SOURCES_AT_MOST})]
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


def _cases(
    session: Session, fingerprint: str, source: str, since: datetime, until: datetime, limit: int
) -> list[tuple[UUID, dict[str, float | None]]]:
    """The newest so many, the oldest first."""
    values = {
        "fingerprint": fingerprint,
        "source": source,
        "first": first_id_at(since),
        "last": first_id_at(until),
        "limit": limit,
    }
    rows = session.execute(_CASES, values).all()
    return [(row.case_id, numbers_of(row.verdict, row.picture, row.faces)) for row in reversed(rows)]
