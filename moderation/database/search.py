"""Finds cases by what people know of them: an id, the image, its bytes, a source, a word in the context.

Every way has its own index, over history and live cases. An erased case is found only by its id. The digest of an
archived case's bytes lies in its archive.
"""

import enum
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.database.shapes import known_sources
from moderation.database.tables import CONTEXT_VALUES

#: Hexadecimal digits that a search needs, of an id's beginning and of a picture's sha256.
ID_AT_LEAST, SHA256_AT_LEAST = 4, 8
#: Digits at the end of an id. The console names cases by them.
ID_END = 8
#: Sources that are searched for an external id when no source is named.
SOURCES_AT_MOST = 1000

_AFTER_ALL_IDS = UUID(int=2**128 - 1)
_HEX = re.compile(r"[0-9a-f]+")
_S3 = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<key>.+?)(\?versionId=[^?]*)?", re.DOTALL)


class SearchField(enum.StrEnum):
    """The field that a text is compared with."""

    #: The whole id of the case, its beginning, or its last eight digits.
    ID = "id"
    #: The platform's own id, whole.
    EXTERNAL_ID = "external_id"
    #: The image's key, whole, or `s3://BUCKET/KEY`.
    KEY = "key"
    #: The digest of the image's bytes, whole or its beginning.
    SHA256 = "sha256"
    #: The source, whole.
    SOURCE = "source"
    #: A whole text or number somewhere in the context.
    CONTEXT = "context"


@dataclass(frozen=True)
class Search:
    text: str
    #: None: every field that the text could be.
    field: SearchField | None = None
    #: Only cases of this source. None: of every one.
    source: str | None = None


#: The cases that each way finds. Large results are ordered and cut here; small ones are whole.
_WAYS = {
    SearchField.ID: """
        (SELECT id FROM cases WHERE id BETWEEN :low AND :high AND id < :older_than {of_source}
         ORDER BY id DESC LIMIT :limit)""",
    SearchField.EXTERNAL_ID: """
        SELECT c.id FROM ({sources}) AS s, LATERAL (
            SELECT id FROM cases WHERE source = s.source AND external_id = :text) AS c""",
    SearchField.KEY: """
        SELECT id FROM cases WHERE key = :key AND erased_at IS NULL AND bucket = coalesce(:bucket, bucket)""",
    SearchField.SHA256: """
        SELECT case_id FROM analyses WHERE image_sha256 >= :first AND image_sha256 <= :last""",
    SearchField.SOURCE: """
        (SELECT id FROM cases WHERE source = :text AND id < :older_than {of_source} ORDER BY id DESC LIMIT :limit)""",
    SearchField.CONTEXT: """
        SELECT id FROM cases WHERE context IS NOT NULL
            AND ({values} @> CAST(:word AS jsonb) OR {values} @> CAST(:number AS jsonb))""",
}
_END_OF_ID = "SELECT id FROM cases WHERE right(CAST(id AS text), 8) = :end"
_EVERY_SOURCE = f"""
    WITH RECURSIVE {known_sources("true")}
    SELECT source FROM known WHERE source IS NOT NULL LIMIT :sources"""  # noqa: S608  of our own words alone
_ONE_SOURCE = "SELECT CAST(:source AS text) AS source"


def search_cases(
    session: Session, wanted: Search, *, older_than: UUID | None = None, limit: int = 50
) -> Sequence[UUID]:
    """The newest cases that fit, the newest first. The next page starts after the last one: UUIDv7 orders by time."""
    given: dict[str, Any] = {
        "older_than": older_than or _AFTER_ALL_IDS,
        "limit": limit,
        "text": wanted.text.strip(),
        "source": wanted.source,
        "sources": SOURCES_AT_MOST,
    }
    ways = [
        words
        for field in SearchField
        if wanted.field in (None, field) and (words := _way(field, given["text"], given)) is not None
    ]
    if not ways or not given["text"] or "\x00" in f"{given['text']}{wanted.source}":
        return []
    filled = " UNION ".join(ways).format(
        sources=_EVERY_SOURCE if wanted.source is None else _ONE_SOURCE,
        values=CONTEXT_VALUES,
        of_source="" if wanted.source is None else "AND source = :source",
    )
    # Find first, then order: a planner that reads ids in order and hopes for a match may read all of them.
    statement = f"""
        WITH found (id) AS MATERIALIZED ({filled})
        SELECT cases.id FROM found JOIN cases ON cases.id = found.id
        WHERE cases.id < :older_than {"" if wanted.source is None else "AND cases.source = :source"}
        ORDER BY cases.id DESC LIMIT :limit
    """  # noqa: S608  of our own words alone
    return session.scalars(text(statement), given).all()


def _way(field: SearchField, said: str, given: dict[str, Any]) -> str | None:
    """The SQL that searches this field; its parameters go into `given`. None: the text cannot be such a value."""
    match field:
        case SearchField.ID:
            return _by_id(said, given)
        case SearchField.KEY:
            place = _S3.fullmatch(said)
            given["bucket"], given["key"] = (place["bucket"], place["key"]) if place else (None, said)
        case SearchField.SHA256:
            digits = said.lower()
            if not SHA256_AT_LEAST <= len(digits) <= 64 or not _HEX.fullmatch(digits):
                return None
            given["first"], given["last"] = _range(digits, 64)
        case SearchField.CONTEXT:
            given["word"], given["number"] = json.dumps([said]), json.dumps([_number(said)])
        case SearchField.EXTERNAL_ID | SearchField.SOURCE:
            pass
    return _WAYS[field]


def _by_id(said: str, given: dict[str, Any]) -> str | None:
    digits = said.lower().replace("-", "")
    if not ID_AT_LEAST <= len(digits) <= 32 or not _HEX.fullmatch(digits):
        return None
    given["low"], given["high"] = (UUID(bytes=end) for end in _range(digits, 32))
    if len(digits) != ID_END:
        return _WAYS[SearchField.ID]
    given["end"] = digits
    return f"{_WAYS[SearchField.ID]} UNION {_END_OF_ID}"


def _range(digits: str, whole: int) -> tuple[bytes, bytes]:
    """The first and last values that begin with these digits."""
    return bytes.fromhex(digits.ljust(whole, "0")), bytes.fromhex(digits.ljust(whole, "f"))


def _number(said: str) -> int | float | str:
    """The number that was written. Other texts stay text, so that they are simply searched for twice."""
    try:
        number = json.loads(said)
    except ValueError:
        return said
    return number if type(number) in (int, float) and math.isfinite(number) else said
