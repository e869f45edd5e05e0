"""Ids of rows are UUIDv7: they are ordered by time, so their index answers questions about time too."""

from datetime import UTC, datetime
from uuid import UUID

from uuid6 import uuid7


def new_id() -> UUID:
    return UUID(int=uuid7().int)


def first_id_at(moment: datetime, *, allow: float = 0.0) -> UUID:
    """A bound below every id made from this millisecond on: 48 bits of milliseconds come first (RFC 9562, 5.7).

    `allow`: seconds by which the clocks of the ids' makers may be behind. A time without a zone is UTC.
    """
    at = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    milliseconds = max(0, int((at.timestamp() - allow) * 1000))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)
