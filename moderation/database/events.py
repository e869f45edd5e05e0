"""The event log: only appended to, and chained by hashes so that a change of the past shows.

A trigger in Postgres gives every event its number within the case and its hash:

    hash = sha256(previous ‖ "case_id|seq|microseconds|kind|actor|body")

`previous` is the hash of the case's event before it, and empty for the first. The body is hashed as Postgres prints a
jsonb, which is the same for equal values. This module computes the same in Python, so that an auditor with a copy of
the table needs neither our trigger nor our database.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Text, cast, func, select
from sqlalchemy.orm import Session

from moderation.database.tables import CaseRow, CertificateEventRow, EventRow


@dataclass(frozen=True)
class Event:
    seq: int
    at: datetime
    kind: str
    actor: str
    body: dict[str, Any]


@dataclass(frozen=True)
class EventChain:
    """The events of one case, in order, and whether their hashes hold."""

    events: tuple[Event, ...]
    #: Place in the chain of the first changed event. None when the chain holds.
    broken_at: int | None


def event_hash(
    previous: bytes, case_id: UUID | int, seq: int, microseconds: int, kind: str, actor: str, body: str
) -> bytes:
    """The hash of one event, from its body as Postgres prints it. For a certificate its number is the case id."""
    return hashlib.sha256(
        previous + f"{case_id}|{seq}|{microseconds}|{kind}|{actor}|{body}".encode()
    ).digest()


@dataclass(frozen=True)
class Link:
    """An event in the form that is hashed."""

    seq: int
    microseconds: int
    kind: str
    actor: str
    #: The body as Postgres prints it.
    body: str
    previous: bytes
    hash: bytes


def first_broken(case_id: UUID | int, links: Iterable[Link], moves: int) -> int | None:
    """The place, from 1, of the first changed event. None: the chain of so many moves holds.

    Every move raised the case's version by one and wrote one event, so a missing end shows too.
    """
    previous, place = b"", 0
    for place, link in enumerate(links, start=1):
        honest = event_hash(previous, case_id, place, link.microseconds, link.kind, link.actor, link.body)
        if (link.seq, link.previous, link.hash) != (place, previous, honest):
            return place
        previous = link.hash
    return None if place == moves else place + 1


def read_chain(session: Session, case_id: UUID) -> EventChain:
    """A case's events with their chain verified. An archived case has none here, and its chain holds."""
    # One statement, because a move between two would make the number of moves and events differ.
    found = session.execute(
        select(CaseRow.version, CaseRow.archive_id, EventRow, *as_hashed(EventRow))
        .outerjoin(EventRow, EventRow.case_id == CaseRow.id)
        .where(CaseRow.id == case_id)
        .order_by(EventRow.seq)
    ).all()
    rows = [(row, at, body) for _, _, row, at, body in found if row is not None]  # pyright: ignore[reportUnnecessaryComparison]  joined from outside
    moves = found[0].version if found and found[0].archive_id is None else 0
    return verified(case_id, rows, moves)


def as_hashed(
    row: type[EventRow] | type[CertificateEventRow],
) -> tuple[ColumnElement[int], ColumnElement[str]]:
    """The microseconds of an event, and its body as Postgres prints it."""
    microseconds = cast(func.extract("epoch", row.at) * 1_000_000, BigInteger)
    return microseconds.label("microseconds"), cast(row.body, Text).label("printed")


def verified(
    case_id: UUID | int, rows: Sequence[tuple[EventRow | CertificateEventRow, int, str]], moves: int
) -> EventChain:
    """The chain of these events, each with its `as_hashed`."""
    links = (Link(row.seq, at, row.kind, row.actor, body, row.previous, row.hash) for row, at, body in rows)
    events = tuple(Event(row.seq, row.at, row.kind, row.actor, row.body) for row, _, _ in rows)
    return EventChain(events, first_broken(case_id, links, moves))
