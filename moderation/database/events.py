"""The event log: append-only, and chained by hashes so that a change to the past shows.

A trigger in Postgres numbers each event within its case and sets its hash, whoever inserts it:

    hash = sha256(previous ‖ "case_id|seq|microseconds|kind|actor|body")

`previous` is the hash of the case's event before it, and empty for the first. The body is hashed as Postgres prints a
jsonb, which is the same for equal values. This module computes the same in Python, so that an auditor with a copy of
the table needs neither our trigger nor our database.
"""

import hashlib
from collections.abc import Iterable
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
    previous: bytes, case_id: UUID | int, seq: int, microseconds: int, kind: str, actor: str, body: str
) -> bytes:
    """The hash of one event, from the text Postgres prints for its body. A certificate's number stands for its case."""
    return hashlib.sha256(
        previous + f"{case_id}|{seq}|{microseconds}|{kind}|{actor}|{body}".encode()
    ).digest()


@dataclass(frozen=True)
class Link:
    """An event as its hash was made."""

    seq: int
    microseconds: int
    kind: str
    actor: str
    #: The body as Postgres prints it.
    body: str
    previous: bytes
    hash: bytes


def first_broken(case_id: UUID | int, links: Iterable[Link], moves: int) -> int | None:
    """The place of the first event that is not what was written, from 1. None: the chain of so many moves holds.

    Every move raised the case's version by one and wrote one event: what was cut off at the end shows too.
    """
    previous, place = b"", 0
    for place, link in enumerate(links, start=1):
        honest = event_hash(previous, case_id, place, link.microseconds, link.kind, link.actor, link.body)
        if (link.seq, link.previous, link.hash) != (place, previous, honest):
            return place
        previous = link.hash
    return None if place == moves else place + 1


def read_chain(session: Session, case_id: UUID) -> Chain:
    """The events of a case with their chain verified. Of an archived case none are here, and that breaks nothing."""
    microseconds = cast(func.extract("epoch", EventRow.at) * 1_000_000, BigInteger).label("microseconds")
    # One statement: a move between two would make the count of moves and the events disagree.
    found = session.execute(
        select(
            CaseRow.version,
            CaseRow.archive_id,
            EventRow,
            microseconds,
            cast(EventRow.body, Text).label("printed"),
        )
        .outerjoin(EventRow, EventRow.case_id == CaseRow.id)
        .where(CaseRow.id == case_id)
        .order_by(EventRow.seq)
    ).all()
    rows = [(row, at, body) for _, _, row, at, body in found if row is not None]  # pyright: ignore[reportUnnecessaryComparison]  joined from outside
    links = (Link(row.seq, at, row.kind, row.actor, body, row.previous, row.hash) for row, at, body in rows)
    moves = found[0].version if found and found[0].archive_id is None else 0
    return Chain(
        tuple(Event(row.seq, row.at, row.kind, row.actor, row.body) for row, _, _ in rows),
        first_broken(case_id, links, moves),
    )
