"""Endpoints, and their deliveries with what became of each.

A sender claims a delivery for a limited time before it sends, so that another one takes over if it dies.
"""

import base64
import enum
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, literal, select, text, true, tuple_, update
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.outbox import Kind, pending
from moderation.database.shapes import as_value, change_rows, delete_rows
from moderation.database.tables import DeliveryRow, EndpointRow
from moderation.database.work import DELIVERIES

#: Secrets that sign at the same time, while a receiver changes to a new one.
LIVE_SECRETS = 2


class DeliveryState(enum.StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    #: Given up after the last try. It can be sent again.
    DEAD = "dead"


@dataclass(frozen=True)
class Endpoint:
    """An address that gets a platform's webhooks."""

    id: UUID
    url: str
    kinds: tuple[Kind, ...]
    source: str | None  # None: cases of every source
    #: Newest first. Each of them signs.
    secrets: tuple[str, ...]
    created_at: datetime
    disabled_at: datetime | None  # None while it is enabled


@dataclass(frozen=True)
class Delivery:
    """One webhook for one endpoint."""

    #: The webhook-id: the same at every try, so that a receiver can drop repeated ones.
    id: UUID
    endpoint_id: UUID
    case_id: UUID
    kind: Kind
    body: dict[str, Any]
    created_at: datetime
    due_at: datetime
    attempts: int
    delivered_at: datetime | None
    dead_at: datetime | None
    last_status: int | None
    last_error: str | None

    @property
    def state(self) -> DeliveryState:
        if self.delivered_at is not None:
            return DeliveryState.DELIVERED
        return DeliveryState.WAITING if self.dead_at is None else DeliveryState.DEAD


@dataclass(frozen=True)
class Claimed:
    """A delivery that will be tried now, with all that is needed for it."""

    id: UUID
    endpoint_id: UUID
    case_id: UUID
    kind: str
    body: dict[str, Any]
    attempt: int  # this one, from 1
    url: str
    secrets: tuple[str, ...]


def claim_due(
    session: Session,
    *,
    limit: int,
    per_endpoint: int,
    hold_seconds: float,
    busy: Collection[UUID] = (),
    among: Collection[UUID] | None = None,
) -> list[Claimed]:
    """Take up to `limit` deliveries that are due, at most `per_endpoint` of one endpoint.

    Endpoints that are `busy` are left out; `among` limits to some. The try counts from now on. A delivery is due again
    when its sender is silent for `hold_seconds`.
    """
    if limit <= 0 or (among is not None and not among):
        return []
    whose = [EndpointRow.disabled_at.is_(None), EndpointRow.id.not_in(busy)]
    if among is not None:
        whose.append(EndpointRow.id.in_(among))
    # Endpoint by endpoint: a hanging one with ten thousand waiting deliveries does not delay the others.
    of_one = (
        select(DeliveryRow.id, DeliveryRow.due_at)
        .where(DeliveryRow.endpoint_id == EndpointRow.id, pending(), DeliveryRow.due_at <= func.now())
        .order_by(DeliveryRow.due_at)
        .limit(per_endpoint)
        .with_for_update(skip_locked=True)
        .lateral("of_one")
    )
    due_ids = session.scalars(
        select(of_one.c.id)
        .select_from(EndpointRow)
        .join(of_one, true())
        .where(*whose)
        .order_by(of_one.c.due_at)
        .limit(limit)
    ).all()
    if not due_ids:
        return []
    rows = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(due_ids), EndpointRow.id == DeliveryRow.endpoint_id)
        .values(attempts=DeliveryRow.attempts + 1, due_at=func.now() + timedelta(seconds=hold_seconds))
        .returning(
            DeliveryRow.id,
            DeliveryRow.endpoint_id,
            DeliveryRow.case_id,
            DeliveryRow.kind,
            DeliveryRow.body,
            DeliveryRow.attempts,
            EndpointRow.url,
            EndpointRow.secrets,
        )
        .execution_options(synchronize_session=False)
    ).all()
    return [as_value(Claimed, row, attempt=row.attempts) for row in rows]


def record_delivered(session: Session, delivery_id: UUID, *, status: int) -> None:
    DELIVERIES.change(
        session,
        DeliveryRow.id == delivery_id,
        DeliveryRow.delivered_at.is_(None),
        delivered_at=func.now(),
        dead_at=None,
        last_status=status,
        last_error=None,
    )


def record_failed_try(
    session: Session,
    delivery_id: UUID,
    *,
    attempt: int,
    status: int | None,
    error: str,
    again_in: float | None,
) -> None:
    """Record a failed try. The delivery is due again in so many seconds. None: it is given up.

    The try's number is the fence: a delivery that was taken again, or sent again by hand, does not change.
    """
    when: dict[str, Any] = (
        {"dead_at": func.now()} if again_in is None else {"due_at": func.now() + timedelta(seconds=again_in)}
    )
    held = (*DELIVERIES.held(delivery_id, attempt), DeliveryRow.delivered_at.is_(None))
    DELIVERIES.change(session, *held, last_status=status, last_error=error, **when)


def resend(session: Session, delivery_id: UUID) -> bool:
    """Send it again, with all its tries. False: there is no such delivery.

    A delivery that was not tried yet does not change: a decision is not sent before it is final.
    """
    found = session.scalar(select(DeliveryRow.id).where(DeliveryRow.id == delivery_id))
    tried = (DeliveryRow.id == delivery_id, DeliveryRow.attempts > 0)
    DELIVERIES.change(session, *tried, attempts=0, due_at=func.now(), delivered_at=None, dead_at=None)
    return found is not None


#: An index holds delivered webhooks by age. Those that were given up stay until they are sent, and are not read.
FORGET = text("""
    DELETE FROM deliveries USING (
        SELECT d.id FROM deliveries d
        WHERE d.delivered_at IS NOT NULL AND d.created_at < now() - make_interval(days => :days)
        ORDER BY d.created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS over
    WHERE deliveries.id = over.id RETURNING deliveries.id
""")


#: Deliveries deleted in one transaction, so that it stays short.
FORGET_PAGE = 10_000


def forget_delivered(session: Session, *, days: int, limit: int = FORGET_PAGE) -> int:
    """Delete a page of delivered webhooks that were written more than so many days ago; return how many."""
    return len(session.execute(FORGET, {"days": days, "limit": limit}).all())


def find_delivery(session: Session, delivery_id: UUID) -> Delivery | None:
    row = session.get(DeliveryRow, delivery_id)
    return None if row is None else as_value(Delivery, row)


def deliveries_of(
    session: Session, endpoint_id: UUID, *, limit: int, before: UUID | None = None
) -> list[Delivery]:
    """A page of an endpoint's log, the newest first. `before` is the last id of the previous page."""
    wanted = select(DeliveryRow).where(DeliveryRow.endpoint_id == endpoint_id)
    if before is not None:
        seen = select(DeliveryRow.created_at, DeliveryRow.id).where(DeliveryRow.id == before)
        wanted = wanted.where(tuple_(DeliveryRow.created_at, DeliveryRow.id) < seen.scalar_subquery())
    rows = session.scalars(wanted.order_by(DeliveryRow.created_at.desc(), DeliveryRow.id.desc()).limit(limit))
    return [as_value(Delivery, row) for row in rows]


def dead_deliveries(session: Session, *, limit: int) -> list[Delivery]:
    """Deliveries that were given up, the newest first."""
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.dead_at.is_not(None))
        .order_by(DeliveryRow.created_at.desc(), DeliveryRow.id.desc())
        .limit(limit)
    )
    return [as_value(Delivery, row) for row in rows]


def new_secret() -> str:
    """A signing secret in the form of Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def lock_target(session: Session, target: str) -> None:
    """Keep others from adding an endpoint with this target until the transaction ends."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:target, 7301004))"), {"target": target}
    )


def insert_endpoint(session: Session, *, url: str, kinds: Sequence[Kind], source: str | None) -> Endpoint:
    row = session.scalars(
        insert(EndpointRow)
        .values(
            id=new_id(), url=url, kinds=[kind.value for kind in kinds], source=source, secrets=[new_secret()]
        )
        .returning(EndpointRow)
    ).one()
    return as_value(Endpoint, row)


def list_endpoints(session: Session) -> list[Endpoint]:
    """All endpoints, the oldest first."""
    return [as_value(Endpoint, row) for row in session.scalars(select(EndpointRow).order_by(EndpointRow.id))]


def find_endpoint(session: Session, endpoint_id: UUID) -> Endpoint | None:
    row = session.scalars(
        select(EndpointRow).where(EndpointRow.id == endpoint_id).execution_options(populate_existing=True)
    ).first()
    return None if row is None else as_value(Endpoint, row)


def change_endpoint(session: Session, endpoint_id: UUID, **changes: Any) -> Endpoint | None:
    """Change an endpoint's columns. None: no endpoint has this id."""
    change_rows(session, EndpointRow, EndpointRow.id == endpoint_id, **changes)
    return find_endpoint(session, endpoint_id)


def rotate_secret(session: Session, endpoint_id: UUID) -> Endpoint | None:
    """Put a new secret first. The one before still signs; older ones end."""
    kept = EndpointRow.secrets[1 : LIVE_SECRETS - 1]
    return change_endpoint(
        session, endpoint_id, secrets=func.array_cat(literal([new_secret()], EndpointRow.secrets.type), kept)
    )


def delete_log(session: Session, endpoint_id: UUID, *, at_most: int) -> int:
    """Delete up to so many deliveries of an endpoint; return how many."""
    some = select(DeliveryRow.id).where(DeliveryRow.endpoint_id == endpoint_id).limit(at_most)
    return delete_rows(session, DeliveryRow, DeliveryRow.id.in_(some))


def delete_endpoint(session: Session, endpoint_id: UUID) -> bool:
    """Delete an endpoint whose log is deleted, with its last deliveries. False: there was none."""
    # This waits for transactions that are writing deliveries for it.
    session.execute(select(EndpointRow.id).where(EndpointRow.id == endpoint_id).with_for_update())
    delete_rows(session, DeliveryRow, DeliveryRow.endpoint_id == endpoint_id)
    return delete_rows(session, EndpointRow, EndpointRow.id == endpoint_id) > 0
