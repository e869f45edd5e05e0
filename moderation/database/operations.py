"""What an engineer looks at: dead letters, and the processes that are alive."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.shapes import as_value, change_rows, delete_rows, seconds
from moderation.database.tables import DeadLetterRow, HeartbeatRow

#: Characters kept of an unreadable message, which may have any size.
LETTER_AT_MOST = 65_536

#: The lock of the one sweeper that works. Any unused constant will do.
_SWEEP_LOCK = 7_301_002


@dataclass(frozen=True)
class DeadLetter:
    id: UUID
    queue: str
    body: str
    error: str
    created_at: datetime
    replayed_at: datetime | None
    dismissed_at: datetime | None


def insert_dead_letter(session: Session, *, queue: str, body: str, error: str) -> None:
    """Keep a message that nobody could process. What Postgres cannot store in text, such as a NUL, becomes �."""
    letter = {"queue": queue, "body": body[:LETTER_AT_MOST], "error": error[:2000]}
    clean = {name: _storable(value) for name, value in letter.items()}
    session.execute(insert(DeadLetterRow).values(id=new_id(), **clean))


def _storable(value: str) -> str:
    return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def list_dead_letters(session: Session, *, limit: int = 100, dismissed: bool = False) -> list[DeadLetter]:
    """The newest first; with `dismissed` also those that were dismissed."""
    wanted = select(DeadLetterRow).order_by(DeadLetterRow.id.desc()).limit(limit)
    if not dismissed:
        wanted = wanted.where(DeadLetterRow.dismissed_at.is_(None))
    return [as_value(DeadLetter, row) for row in session.scalars(wanted)]


def find_dead_letter(session: Session, letter_id: UUID) -> DeadLetter | None:
    row = session.get(DeadLetterRow, letter_id)
    return None if row is None else as_value(DeadLetter, row)


def mark_replayed(session: Session, letter_id: UUID) -> None:
    change_rows(session, DeadLetterRow, DeadLetterRow.id == letter_id, replayed_at=func.now())


def dismiss_dead_letter(session: Session, letter_id: UUID) -> bool:
    """Take the letter off the list; its row stays. False: it is not on the list."""
    listed = (DeadLetterRow.id == letter_id, DeadLetterRow.dismissed_at.is_(None))
    return change_rows(session, DeadLetterRow, *listed, dismissed_at=func.now()) > 0


def beat(session: Session, process: str, facts: dict[str, Any]) -> None:
    """Note that this process is alive."""
    session.execute(
        upsert(HeartbeatRow)
        .values(process=process, facts=facts)
        .on_conflict_do_update(index_elements=["process"], set_={"seen_at": func.now(), "facts": facts})
    )


def forget_processes(session: Session) -> None:
    """Forget processes without a heartbeat for a day."""
    delete_rows(session, HeartbeatRow, HeartbeatRow.seen_at < func.now() - seconds(86_400))


@dataclass(frozen=True)
class Process:
    name: str
    #: Seconds since it was last seen, by the database's clock.
    silent_for: float
    facts: dict[str, Any]


def list_processes(session: Session) -> list[Process]:
    silent = func.extract("epoch", func.now() - HeartbeatRow.seen_at)
    rows = session.execute(
        select(HeartbeatRow.process, silent, HeartbeatRow.facts).order_by(HeartbeatRow.process)
    )
    return [Process(name, float(age), facts) for name, age, facts in rows]


def answer_within(session: Session, seconds: float) -> None:
    """Limit each statement of this transaction to so many seconds; a longer one raises DatabaseUnavailable."""
    milliseconds = round(seconds * 1000)  # Postgres's unit
    session.execute(text(f"SET LOCAL statement_timeout = {milliseconds}"))


def take_sweep_lock(session: Session) -> bool:
    """Whether this is the one sweeper that may work in this transaction."""
    return bool(session.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _SWEEP_LOCK}))
