"""Leased work: rows that workers take, each held by one worker at a time, and done once.

take       a worker holds the row under a number that is never used again: the fence
finish     each write checks that number in the same statement; an older number writes nothing
release    the worker gives the row up, undone
due        rows that nobody holds, and whose message is old or was never published: they are published again
give_up    rows that were taken too often end with a reason

A worker that dies does none of this: its hold ends, and the row is due again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, Update, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from moderation.cases import CaseState
from moderation.database.shapes import change_rows, seconds
from moderation.database.tables import LEASE_TOKENS, CaseRow, DeliveryRow, QuestionRow, RerunRow
from moderation.settings import Settings

#: A question or a rerun is given up after so many workers took it and did not finish it.
ATTEMPTS_AT_MOST = 3


def stale_seconds(settings: Settings) -> float:
    """Seconds after which a worker that took a question or a rerun, and did not end it, counts as gone."""
    return 2 * settings.engine_timeout_seconds


class Work:
    """A table of leased work."""

    def __init__(
        self,
        row: type[CaseRow] | type[QuestionRow] | type[RerunRow] | type[DeliveryRow],
        *,
        fence: InstrumentedAttribute[Any],
        waiting: ColumnElement[bool],
    ) -> None:
        """`fence`: the column with the number under which a row is held. `waiting`: the rows that can be taken."""
        self.row = row
        self._fence = fence
        self._waiting = waiting

    def held(self, row_id: UUID, number: int) -> tuple[ColumnElement[bool], ...]:
        """The fence: this row, held under this number."""
        return self.row.id == row_id, self._fence == number

    def mark_unpublished(self, session: Session, ids: Sequence[UUID]) -> None:
        """Note that their messages did not reach the queue: the sweeper publishes them at its next look."""
        self.change(session, self.row.id.in_(ids), self._waiting, rung_at=None)

    def change(self, session: Session, *where: ColumnElement[bool], **changes: Any) -> int:
        """Change the rows that fit; return how many."""
        return change_rows(session, self.row, *where, **changes)

    def _update(self, *where: ColumnElement[bool], **changes: Any) -> Update:
        return update(self.row).where(*where).values(**changes).execution_options(synchronize_session=False)


class Renewed(Work):
    """Work that is fenced by the token of a lease. Its worker renews the lease; the hold ends with it.

    Moves take, release and end it, each with its event: see `moderation.database.moves`.
    """

    row: type[CaseRow]

    #: What a move changes when it releases a row.
    let_go: ClassVar[dict[str, Any]] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}

    def taken(self, owner: str, lease_seconds: float) -> dict[str, Any]:
        """What a move changes when it takes a row."""
        return {
            "lease_token": LEASE_TOKENS.next_value(),
            "lease_owner": owner,
            "lease_expires_at": func.now() + seconds(lease_seconds),
        }

    def ran_out(self) -> ColumnElement[bool]:
        """Its worker did not renew the lease in time."""
        return self.row.lease_expires_at < func.now()

    def renew(self, session: Session, tokens: Sequence[int], *, lease_seconds: float) -> set[int]:
        """Extend these leases; return the tokens that are still valid. This is no move and has no event."""
        held = (self.row.lease_token.in_(tokens), self.row.state == CaseState.ANALYZING)
        longer = self._update(*held, lease_expires_at=func.now() + seconds(lease_seconds))
        return {
            token for token in session.scalars(longer.returning(self.row.lease_token)) if token is not None
        }


class Counted(Work):
    """Work that is fenced by how often it was taken. A hold ends when its worker is silent for too long."""

    row: type[QuestionRow] | type[RerunRow]

    def __init__(
        self,
        row: type[QuestionRow] | type[RerunRow],
        *,
        done: InstrumentedAttribute[datetime | None],
        urgent: bool,
    ) -> None:
        """`done`: the column with the time a row ended. `urgent`: whether somebody waits for it, see `release`."""
        super().__init__(row, fence=row.attempts, waiting=done.is_(None))
        self._done = done
        self._urgent = urgent

    def held(self, row_id: UUID, number: int) -> tuple[ColumnElement[bool], ...]:
        return *super().held(row_id, number), self._waiting

    def free(self, stale_after: float) -> ColumnElement[bool]:
        """Not done, and either nobody holds it or its worker took it longer ago than that."""
        begun_at = self.row.begun_at
        return self._waiting & or_(begun_at.is_(None), begun_at < func.now() - seconds(stale_after))

    def take(
        self, session: Session, row_id: UUID, *where: ColumnElement[bool], stale_after: float
    ) -> Row[Any] | None:
        """Hold a row under a new number, its attempts. None: it is done, is held, or does not fit `where`."""
        fits = (self.row.id == row_id, self.free(stale_after), *where)
        taken = self._update(*fits, attempts=self.row.attempts + 1, begun_at=func.now())
        return session.execute(taken.returning(*self.row.__table__.columns)).first()

    def release(self, session: Session, row_id: UUID, number: int) -> None:
        """Give the row up because something of ours was unavailable: the sweeper publishes it again.

        Urgent work is published at once, and the attempt counts. Other work waits a while, and the attempt does not.
        """
        patience = {} if self._urgent else {"attempts": self.row.attempts - 1, "rung_at": func.now()}
        self.change(session, *self.held(row_id, number), begun_at=None, **patience)

    def finish(self, session: Session, row_id: UUID, number: int, **result: Any) -> bool:
        """End it with a result or a failure. False: it is no longer held under this number."""
        return self.end(session, *self.held(row_id, number), **result) > 0

    def end(self, session: Session, *where: ColumnElement[bool], **result: Any) -> int:
        """End the rows that fit and are not done, whoever holds them; return how many."""
        return self.change(session, self._waiting, *where, **{self._done.key: func.now()}, **result)

    def due(
        self, *where: ColumnElement[bool], limit: int, again_after: float | None, stale_after: float
    ) -> Select[UUID]:
        """A page of free rows, not taken too often, that were never published or not for `again_after` seconds.

        Without `again_after`, only rows that were never published.
        """
        silent = self.row.rung_at.is_(None)
        if again_after is not None:
            silent |= self.row.rung_at < func.now() - seconds(again_after)
        return self.page(
            silent, self.row.attempts < ATTEMPTS_AT_MOST, *where, limit=limit, stale_after=stale_after
        )

    def spent(self, *, limit: int, stale_after: float) -> Select[UUID]:
        """A page of rows that were taken too often and that nobody holds."""
        return self.page(self.row.attempts >= ATTEMPTS_AT_MOST, limit=limit, stale_after=stale_after)

    def page(self, *where: ColumnElement[bool], limit: int, stale_after: float) -> Select[UUID]:
        """The ids of free rows that fit. They are locked; rows that others have locked are left out."""
        fits = select(self.row.id).where(self.free(stale_after), *where)
        return fits.limit(limit).with_for_update(skip_locked=True)

    def mark_published(self, session: Session, ids: Sequence[UUID]) -> None:
        """Note that they are published; the caller publishes them once the session is committed."""
        if ids:
            self.change(session, self.row.id.in_(ids), rung_at=func.now())

    def give_up(self, session: Session, page: Select[UUID], *, failure: str) -> int:
        """End the rows of a page with this failure; return how many."""
        ids = session.scalars(page).all()
        return self.end(session, self.row.id.in_(ids), failure=failure) if ids else 0


CASES = Renewed(CaseRow, fence=CaseRow.lease_token, waiting=CaseRow.state == CaseState.WAITING)
QUESTIONS = Counted(QuestionRow, done=QuestionRow.answered_at, urgent=True)
RERUNS = Counted(RerunRow, done=RerunRow.done_at, urgent=False)
#: Deliveries have no messages: the courier takes what is due. A held delivery is due again when its hold ends.
DELIVERIES = Work(DeliveryRow, fence=DeliveryRow.attempts, waiting=DeliveryRow.delivered_at.is_(None))
