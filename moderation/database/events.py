"""The event log: append-only, and chained by hashes so that a change to the past shows.

A trigger in Postgres numbers each event within its case and sets its hash, whoever inserts it:

    hash = sha256(previous ‖ "case_id|seq|microseconds|kind|actor|body")

`previous` is the hash of the case's event before it, and empty for the first. The body is hashed as Postgres prints a
jsonb, which is the same for equal values. This module computes the same in Python, so that an auditor with a copy of
the table needs neither our trigger nor our database.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Text, cast, func, select
from sqlalchemy.orm import Session

from moderation.database.tables import CaseRow, EventRow


@dataclass(frozen=True)
class Event:
    seq: int
    at: datetime
    kind: str
    actor: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """The events of one case, in order, and whether their hashes hold."""

    events: tuple[Event, ...]
    #: The first event that is not what was written, by its place in the chain. None when the chain holds.
    broken_at: int | None


def event_hash(
    previous: bytes, case_id: UUID, seq: int, microseconds: int, kind: str, actor: str, body: str
) -> bytes:
    """The hash of one event, from the text Postgres prints for its body."""
    return hashlib.sha256(
        previous + f"{case_id}|{seq}|{microseconds}|{kind}|{actor}|{body}".encode()
    ).digest()


def read_chain(session: Session, case_id: UUID) -> Chain:
    """The events of a case with their chain verified."""
    microseconds = cast(func.extract("epoch", EventRow.at) * 1_000_000, BigInteger).label("microseconds")
    rows = session.execute(
        select(EventRow, microseconds, cast(EventRow.body, Text).label("printed"))
        .where(EventRow.case_id == case_id)
        .order_by(EventRow.seq)
    ).all()
    previous, broken_at = b"", None
    for place, (row, at, body) in enumerate(rows, start=1):
        honest = event_hash(previous, case_id, place, at, row.kind, row.actor, body)
        if broken_at is None and (row.seq, row.previous, row.hash) != (place, previous, honest):
            broken_at = place
        previous = row.hash
    # Every move raised the case's version by one and wrote one event: what was cut off at the end shows too.
    moves = session.scalar(select(CaseRow.version).where(CaseRow.id == case_id)) or 0
    if broken_at is None and len(rows) != moves:
        broken_at = len(rows) + 1
    return Chain(
        tuple(Event(row.seq, row.at, row.kind, row.actor, row.body) for row, _, _ in rows), broken_at
    )
