"""Ids of rows: UUIDv7, so that they are ordered by the time they were made and their index answers for time too."""

from datetime import UTC, datetime
from uuid import UUID

from uuid6 import uuid7


def new_id() -> UUID:
    return UUID(int=uuid7().int)


def first_id_at(moment: datetime, *, allow: float = 0.0) -> UUID:
    """Below every id that is made from this millisecond on: 48 bits of milliseconds come first (RFC 9562, 5.7).

    `allow` are seconds by which the clocks that made the ids may be behind. A time without a zone is UTC.
    """
    at = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    milliseconds = max(0, int((at.timestamp() - allow) * 1000))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)
