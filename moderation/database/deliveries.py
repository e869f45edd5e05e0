"""Webhooks: who wants to be told, what is to be sent, and what became of it.

A delivery is put in line in the transaction of the move it tells of: it is sent if and only if the move happened. It
is claimed before it is sent, with an end to the claim, so that a sender that dies leaves it to the next.
"""

import base64
import enum
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    any_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.tables import AnalysisRow, CaseRow, DeliveryRow, EndpointRow

#: Secrets that sign at the same time while a receiver changes from one to the next.
LIVE_SECRETS = 2


class Kind(enum.StrEnum):
    """What a platform can be told of; the `type` of a webhook."""

    #: The case is ready for a person, with a verdict or with a refusal.
    ANALYZED = "case.analyzed"
    #: A person decided, and the time to take it back has passed.
    DECIDED = "case.decided"
    #: A decision was appealed against.
    APPEALED = "case.appealed"
    #: The platform took the image back.
    WITHDRAWN = "case.withdrawn"


class DeliveryState(enum.StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    #: Given up after the last try. It can be sent again.
    DEAD = "dead"


@dataclass(frozen=True)
class Endpoint:
    """Where a platform wants to be told."""

    id: UUID
    url: str
    kinds: tuple[Kind, ...]
    source: str | None  # None: of the cases of every source
    #: Newest first; each of them signs.
    secrets: tuple[str, ...]
    created_at: datetime
    disabled_at: datetime | None  # None while it is used


@dataclass(frozen=True)
class Delivery:
    """One thing to tell one endpoint."""

    #: The webhook-id: the same over every try, so that a receiver can drop what it has had.
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
    """A delivery that is about to be tried, and all that is needed for it."""

    id: UUID
    endpoint_id: UUID
    case_id: UUID
    kind: str
    body: dict[str, Any]
    attempt: int  # this one, from 1
    url: str
    secrets: tuple[str, ...]


def enqueue(
    session: Session,
    kind: Kind,
    case_id: UUID,
    body: dict[str, Any] | None = None,
    *,
    due_at: datetime | None = None,
) -> int:
    """Tell every endpoint that wants to know, in the caller's transaction and after its move; return how many.

    `body` adds to the case what this kind is about: {"decision": {…}}, {"appeal": {…}}. It is sent as it is now, even
    when it is not due before `due_at`.
    """
    wanting = session.scalars(
        select(EndpointRow.id)
        .join(CaseRow, CaseRow.id == case_id)
        .where(
            EndpointRow.disabled_at.is_(None),
            literal(kind.value) == any_(EndpointRow.kinds),
            or_(EndpointRow.source.is_(None), EndpointRow.source == CaseRow.source),
        )
    ).all()
    if not wanting:
        return 0
    sent = {
        "type": kind.value,
        "timestamp": datetime.now(UTC).isoformat(),
        "data": case_facts(session, case_id) | (body or {}),
    }
    shared: dict[str, Any] = {"case_id": case_id, "kind": kind.value, "body": sent}
    if due_at is not None:
        shared["due_at"] = due_at
    values = {name: literal(value, DeliveryRow.__table__.c[name].type) for name, value in shared.items()}
    # Out of the endpoints once more: one that was removed meanwhile is told nothing, and fails nobody's move.
    rows = [
        insert(DeliveryRow).from_select(
            ["id", "endpoint_id", *values],
            select(literal(new_id()), EndpointRow.id, *values.values()).where(EndpointRow.id == endpoint),
        )
        for endpoint in wanting
    ]
    for row in rows:
        session.execute(row)
    return len(rows)


def cancel(session: Session, case_id: UUID, kind: Kind) -> int:
    """Take back what is not due yet, because the move was taken back; return how many.

    What is due tells of an earlier move, which stands: its endpoint may have been disabled since.
    """
    taken = session.execute(
        delete(DeliveryRow)
        .where(
            DeliveryRow.case_id == case_id,
            DeliveryRow.kind == kind.value,
            DeliveryRow.attempts == 0,
            DeliveryRow.due_at > func.now(),
            _pending(),
        )
        .returning(DeliveryRow.id)
        .execution_options(synchronize_session=False)
    )
    return len(taken.all())


def case_facts(session: Session, case_id: UUID) -> dict[str, Any]:
    """The case as `GET /v1/cases/{id}` shows it, without faces, rationale and what the platform said itself."""
    case = session.execute(
        select(*(column for column in CaseRow.__table__.columns if column.name in _TOLD)).where(
            CaseRow.id == case_id
        )
    ).one()
    analysis = session.execute(
        select(
            AnalysisRow.verdict,
            AnalysisRow.faces_found,
            AnalysisRow.faces_judged,
            AnalysisRow.fingerprint,
            AnalysisRow.bundle,
        )
        .join(CaseRow, CaseRow.analysis_id == AnalysisRow.id)
        .where(CaseRow.id == case_id)
    ).first()
    return {
        "id": str(case_id),
        "state": case.state,
        "version": case.version,
        "source": case.source,
        "external_id": case.external_id,
        "context": case.context,
        "created_at": case.created_at.isoformat(),
        "ready_at": None if case.ready_at is None else case.ready_at.isoformat(),
        "verdict": None if analysis is None else analysis.verdict,
        "faces_found": None if analysis is None else analysis.faces_found,
        "faces_judged": None if analysis is None else analysis.faces_judged,
        "fingerprint": None if analysis is None else analysis.fingerprint,
        "bundle": None if analysis is None else analysis.bundle,
        "refusal": case.refusal_code,
        "refusal_message": case.refusal_message,
        "decision": None,
        "links": {"self": f"/v1/cases/{case_id}"},
    }


_TOLD = {
    "state",
    "version",
    "source",
    "external_id",
    "context",
    "created_at",
    "ready_at",
    "refusal_code",
    "refusal_message",
}


def claim_due(
    session: Session,
    *,
    limit: int,
    each: int,
    hold_seconds: float,
    busy: Collection[UUID] = (),
    among: Collection[UUID] | None = None,
) -> list[Claimed]:
    """Take up to `limit` deliveries that are due, at most `each` per endpoint.

    None of endpoints that are `busy`; where `among` names some, of these alone. The try counts from here. When whoever
    took it is not heard of for `hold_seconds`, it is due again.
    """
    if limit <= 0 or (among is not None and not among):
        return []
    whose = [EndpointRow.disabled_at.is_(None), EndpointRow.id.not_in(busy)]
    if among is not None:
        whose.append(EndpointRow.id.in_(among))
    # Endpoint by endpoint: one that hangs, with ten thousand waiting for it, does not stand before the others.
    of_one = (
        select(DeliveryRow.id, DeliveryRow.due_at)
        .where(DeliveryRow.endpoint_id == EndpointRow.id, _pending(), DeliveryRow.due_at <= func.now())
        .order_by(DeliveryRow.due_at)
        .limit(each)
        .with_for_update(skip_locked=True)
        .lateral("of_one")
    )
    chosen = session.scalars(
        select(of_one.c.id)
        .select_from(EndpointRow)
        .join(of_one, true())
        .where(*whose)
        .order_by(of_one.c.due_at)
        .limit(limit)
    ).all()
    if not chosen:
        return []
    rows = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id.in_(chosen), EndpointRow.id == DeliveryRow.endpoint_id)
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
    return [
        Claimed(
            id=row.id,
            endpoint_id=row.endpoint_id,
            case_id=row.case_id,
            kind=row.kind,
            body=row.body,
            attempt=row.attempts,
            url=row.url,
            secrets=tuple(row.secrets),
        )
        for row in rows
    ]


def record_delivered(session: Session, delivery_id: UUID, *, status: int) -> None:
    _record(session, delivery_id, delivered_at=func.now(), dead_at=None, last_status=status, last_error=None)


def record_failure(
    session: Session,
    delivery_id: UUID,
    *,
    attempt: int,
    status: int | None,
    error: str,
    again_in: float | None,
) -> None:
    """The try failed. It is due again in so many seconds, or given up when that is None.

    Fenced by the number of the try: what somebody else has taken since, or sent again by hand, is left alone.
    """
    when: dict[str, Any] = (
        {"dead_at": func.now()} if again_in is None else {"due_at": func.now() + timedelta(seconds=again_in)}
    )
    _record(
        session, delivery_id, DeliveryRow.attempts == attempt, last_status=status, last_error=error, **when
    )


def _record(session: Session, delivery_id: UUID, *where: ColumnElement[bool], **changes: Any) -> None:
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id == delivery_id, DeliveryRow.delivered_at.is_(None), *where)
        .values(**changes)
        .execution_options(synchronize_session=False)
    )


def resend(session: Session, delivery_id: UUID) -> bool:
    """Send it once more, with all its tries before it. False: there is none.

    One that was not tried yet is left as it is: a decision is not told of before it is final.
    """
    found = session.scalar(select(DeliveryRow.id).where(DeliveryRow.id == delivery_id))
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id == delivery_id, DeliveryRow.attempts > 0)
        .values(attempts=0, due_at=func.now(), delivered_at=None, dead_at=None)
        .execution_options(synchronize_session=False)
    )
    return found is not None


#: An index holds what was delivered, by its age; what was given up stays until it is sent, and is not stepped over.
FORGET = text("""
    DELETE FROM deliveries USING (
        SELECT d.id FROM deliveries d
        WHERE d.delivered_at IS NOT NULL AND d.created_at < now() - make_interval(days => :days)
        ORDER BY d.created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS over
    WHERE deliveries.id = over.id RETURNING deliveries.id
""")


#: Deliveries forgotten at once: a page, so that one transaction stays short.
FORGET_PAGE = 10_000


def forget_delivered(session: Session, *, days: int, limit: int = FORGET_PAGE) -> int:
    """Delete a page of what was delivered and put in line more than so many days ago; return how many."""
    return len(session.execute(FORGET, {"days": days, "limit": limit}).all())


def find_delivery(session: Session, delivery_id: UUID) -> Delivery | None:
    row = session.get(DeliveryRow, delivery_id)
    return None if row is None else _delivery(row)


def deliveries_of(
    session: Session, endpoint_id: UUID, *, limit: int, before: UUID | None = None
) -> list[Delivery]:
    """A page of an endpoint's log, the newest first; `before` is the last of the page before."""
    wanted = select(DeliveryRow).where(DeliveryRow.endpoint_id == endpoint_id)
    if before is not None:
        seen = select(DeliveryRow.created_at, DeliveryRow.id).where(DeliveryRow.id == before)
        wanted = wanted.where(tuple_(DeliveryRow.created_at, DeliveryRow.id) < seen.scalar_subquery())
    rows = session.scalars(wanted.order_by(DeliveryRow.created_at.desc(), DeliveryRow.id.desc()).limit(limit))
    return [_delivery(row) for row in rows]


def dead_deliveries(session: Session, *, limit: int) -> list[Delivery]:
    """What was given up, the newest first."""
    rows = session.scalars(
        select(DeliveryRow)
        .where(DeliveryRow.dead_at.is_not(None))
        .order_by(DeliveryRow.created_at.desc(), DeliveryRow.id.desc())
        .limit(limit)
    )
    return [_delivery(row) for row in rows]


def new_secret() -> str:
    """A signing secret in the form of Standard Webhooks: 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def lock_target(session: Session, target: str) -> None:
    """Until the transaction ends nobody else adds an endpoint with this target."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:target, 7301004))"), {"target": target}
    )


def insert_endpoint(session: Session, *, url: str, kinds: Sequence[Kind], source: str | None) -> Endpoint:
    row = session.scalars(
        insert(EndpointRow)
        .values(
            id=new_id(),
            url=url,
            kinds=[kind.value for kind in kinds],
            source=source,
            secrets=[new_secret()],
        )
        .returning(EndpointRow)
    ).one()
    return _endpoint(row)


def list_endpoints(session: Session) -> list[Endpoint]:
    """All endpoints, the oldest first."""
    return [_endpoint(row) for row in session.scalars(select(EndpointRow).order_by(EndpointRow.id))]


def find_endpoint(session: Session, endpoint_id: UUID) -> Endpoint | None:
    row = session.scalars(
        select(EndpointRow).where(EndpointRow.id == endpoint_id).execution_options(populate_existing=True)
    ).first()
    return None if row is None else _endpoint(row)


def change_endpoint(session: Session, endpoint_id: UUID, **changes: Any) -> Endpoint | None:
    """Change columns of an endpoint; None when there is none with this id."""
    session.execute(
        update(EndpointRow)
        .where(EndpointRow.id == endpoint_id)
        .values(**changes)
        .execution_options(synchronize_session=False)
    )
    return find_endpoint(session, endpoint_id)


def rotate_secret(session: Session, endpoint_id: UUID) -> Endpoint | None:
    """Put a new secret first. The one before signs on beside it; older ones end."""
    kept = EndpointRow.secrets[1 : LIVE_SECRETS - 1]
    return change_endpoint(
        session, endpoint_id, secrets=func.array_cat(literal([new_secret()], EndpointRow.secrets.type), kept)
    )


def delete_log(session: Session, endpoint_id: UUID, *, at_most: int) -> int:
    """Delete so many of an endpoint's deliveries; return how many there were to delete."""
    some = select(DeliveryRow.id).where(DeliveryRow.endpoint_id == endpoint_id).limit(at_most)
    gone = session.execute(
        delete(DeliveryRow)
        .where(DeliveryRow.id.in_(some))
        .returning(DeliveryRow.id)
        .execution_options(synchronize_session=False)
    )
    return len(gone.all())


def delete_endpoint(session: Session, endpoint_id: UUID) -> bool:
    """Take out an endpoint whose log is deleted, with what was put in line since. False: there was none."""
    # Waits for whoever is putting something in line for it right now.
    session.execute(select(EndpointRow.id).where(EndpointRow.id == endpoint_id).with_for_update())
    session.execute(
        delete(DeliveryRow)
        .where(DeliveryRow.endpoint_id == endpoint_id)
        .execution_options(synchronize_session=False)
    )
    gone = session.execute(
        delete(EndpointRow)
        .where(EndpointRow.id == endpoint_id)
        .returning(EndpointRow.id)
        .execution_options(synchronize_session=False)
    )
    return gone.first() is not None


def _pending() -> ColumnElement[bool]:
    return DeliveryRow.delivered_at.is_(None) & DeliveryRow.dead_at.is_(None)


def _endpoint(row: EndpointRow) -> Endpoint:
    return Endpoint(
        id=row.id,
        url=row.url,
        kinds=tuple(Kind(kind) for kind in row.kinds),
        source=row.source,
        secrets=tuple(row.secrets),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _delivery(row: DeliveryRow) -> Delivery:
    return Delivery(
        id=row.id,
        endpoint_id=row.endpoint_id,
        case_id=row.case_id,
        kind=Kind(row.kind),
        body=row.body,
        created_at=row.created_at,
        due_at=row.due_at,
        attempts=row.attempts,
        delivered_at=row.delivered_at,
        dead_at=row.dead_at,
        last_status=row.last_status,
        last_error=row.last_error,
    )
