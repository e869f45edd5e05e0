"""The outbox: webhooks for platforms, written in the transaction of the move that they report.

A webhook is sent if and only if its move happened. `moderation.webhooks` sends it.
"""

import enum
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, any_, func, insert, literal, or_, select
from sqlalchemy.orm import Session

from moderation.analysis import Basis
from moderation.database.ids import new_id
from moderation.database.shapes import delete_rows
from moderation.database.tables import AnalysisRow, BundleRow, CaseRow, DeliveryRow, EndpointRow
from moderation.presentation import told_verdict, verdict_from_json


class Kind(enum.StrEnum):
    """What a webhook reports: its `type`."""

    #: The case is ready for a person, with a verdict or with a refusal.
    ANALYZED = "case.analyzed"
    #: A person decided, and the undo window has passed.
    DECIDED = "case.decided"
    #: A decision was appealed.
    APPEALED = "case.appealed"
    #: The platform took the image back.
    WITHDRAWN = "case.withdrawn"


def enqueue(
    session: Session,
    kind: Kind,
    case_id: UUID,
    body: dict[str, Any] | None = None,
    *,
    due_at: datetime | None = None,
) -> int:
    """Write a webhook for every endpoint that wants this kind; return how many. Call it after the move.

    `body` adds what this kind is about to the case: {"decision": {…}}, {"appeal": {…}}. The webhook has the state of
    now, even when it is due later, at `due_at`.
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
    # Read the endpoints again: one that was just removed gets nothing, and makes no move fail.
    for endpoint in wanting:
        row = select(literal(new_id()), EndpointRow.id, *values.values()).where(EndpointRow.id == endpoint)
        session.execute(insert(DeliveryRow).from_select(["id", "endpoint_id", *values], row))
    return len(wanting)


def cancel(session: Session, case_id: UUID, kind: Kind) -> int:
    """Delete webhooks that are not due yet, because their move was undone; return how many.

    A due webhook reports an earlier move, which stands; its endpoint may be disabled.
    """
    return delete_rows(
        session,
        DeliveryRow,
        DeliveryRow.case_id == case_id,
        DeliveryRow.kind == kind.value,
        DeliveryRow.attempts == 0,
        DeliveryRow.due_at > func.now(),
        pending(),
    )


def case_facts(session: Session, case_id: UUID) -> dict[str, Any]:
    """The case as in `GET /v1/cases/{id}`, without faces, rationale and the platform's own texts."""
    case = session.execute(
        select(*(column for column in CaseRow.__table__.columns if column.name in _TOLD)).where(
            CaseRow.id == case_id
        )
    ).one()
    analysis = session.execute(
        select(
            AnalysisRow.verdict,
            *(AnalysisRow.__table__.c[name] for name in _TOLD_OF_ANALYSIS),
            BundleRow.basis,
            BundleRow.basis_sources,
        )
        .join(CaseRow, CaseRow.analysis_id == AnalysisRow.id)
        .outerjoin(BundleRow, BundleRow.fingerprint == AnalysisRow.fingerprint)
        .where(CaseRow.id == case_id)
    ).first()
    verdict = None
    if analysis is not None:
        known = analysis.basis is not None
        basis = Basis(analysis.basis, tuple(analysis.basis_sources or ())) if known else None
        verdict = told_verdict(verdict_from_json(analysis.verdict), basis, source=case.source)
    return {
        "id": str(case_id),
        "state": case.state,
        "version": case.version,
        "source": case.source,
        "external_id": case.external_id,
        "context": case.context,
        "created_at": case.created_at.isoformat(),
        "ready_at": None if case.ready_at is None else case.ready_at.isoformat(),
        "verdict": verdict,
        **{name: None if analysis is None else getattr(analysis, name) for name in _TOLD_OF_ANALYSIS},
        "refusal": case.refusal_code,
        "refusal_message": case.refusal_message,
        "decision": None,
        "links": {"self": f"/v1/cases/{case_id}"},
    }


_TOLD = {
    "state", "version", "source", "external_id", "context", "created_at", "ready_at", "refusal_code", "refusal_message",
}  # fmt: skip
_TOLD_OF_ANALYSIS = ("faces_found", "faces_judged", "fingerprint", "bundle")


def pending() -> ColumnElement[bool]:
    """Neither delivered nor given up."""
    return DeliveryRow.delivered_at.is_(None) & DeliveryRow.dead_at.is_(None)
