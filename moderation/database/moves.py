"""Every change of a case's state is one statement: the fence, the move and its event.

The states come only from `moderation.cases.TRANSITIONS`. A statement updates the cases that are in the right state,
under the right lease, and inserts one event for each. It returns these cases and leaves all others out. Only Postgres's
clock is used.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Row, case, cast, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from moderation.cases import CaseState, Move, Refusal, Stage, after, before
from moderation.database.outbox import Kind, enqueue
from moderation.database.shapes import seconds
from moderation.database.tables import CaseRow, EventRow
from moderation.database.work import CASES
from moderation.errors import LeaseLost
from moderation.triage import PRIORITY_SECONDS, head_start, uncertainty

Moved = Row[Any]


def move_cases(
    session: Session,
    move: Move,
    *where: ColumnElement[bool],
    actor: str,
    body: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    origin: CaseState | None = None,
) -> Sequence[Moved]:
    """Make `move` with every case that may make it and fits `where`; return the changed rows.

    `body` becomes the event's body: plain values, or SQL expressions over the changed row. Moves that start from
    several states need `origin`.
    """
    origin = before(move) if origin is None else origin
    moved = (
        update(CaseRow)
        .where(CaseRow.state == origin, *where)
        .values(state=after(origin, move), version=CaseRow.version + 1, **(changes or {}))
        .returning(CaseRow)
        .cte("moved")
    )
    facts = func.jsonb_build_object(*_pairs(body or {}, moved))
    event = insert(EventRow).from_select(
        ["case_id", "kind", "actor", "body", "seq", "previous", "hash"],
        # The trigger sets the last three.
        select(
            moved.c.id, literal(move.value), literal(actor), facts, literal(0), literal(b""), literal(b"")
        ),
    )
    return session.execute(select(moved).add_cte(event.cte("logged"))).all()


def _pairs(body: dict[str, Any], moved: Any) -> list[Any]:
    """Names and values in turn. A column of the row is read after the change; anything else is a constant."""
    values = (
        moved.c[value.key] if isinstance(value, InstrumentedAttribute) else cast(literal(value, JSONB), JSONB)
        for value in body.values()
    )
    return [part for pair in zip(body, values, strict=True) for part in pair]


def now_ready(uncertain: float, *, conflict: bool = False) -> dict[str, Any]:
    """What changes when a case becomes ready: the time, and its place in the reviewers' queue.

    The place depends on the stage: a case that was tried again may be at an appeal.
    """
    starts = {stage.value: head_start_of(uncertain, stage, conflict=conflict) for stage in Stage}
    by_stage = case(starts, value=CaseRow.stage)
    return {"ready_at": func.now(), "queued_at": func.now() - seconds(by_stage)}


def head_start_of(uncertain: float, stage: Stage, *, conflict: bool = False) -> ColumnElement[Any]:
    """`triage.head_start` at this stage for the statement's case, with its priority."""
    # As an integer: the column is a smallint, which overflows.
    return head_start(0, uncertain, stage, conflict=conflict) + PRIORITY_SECONDS * cast(
        CaseRow.priority, Integer
    )


def pinned(version_id: str | None) -> dict[str, Any]:
    """What changes when this version of an image was read and its flag named none.

    Reviewers, questions and reruns then see the same version, whatever the key holds later. None: the bucket keeps no
    versions.
    """
    return {} if version_id is None else {"version_id": func.coalesce(CaseRow.version_id, version_id)}


def begin_analysis(
    session: Session, case_id: UUID, *, owner: str, lease_seconds: float, quarantined: bool
) -> Moved | None:
    """Take a lease on a waiting case. None: it is done, taken, not due, or must be quarantined.

    The attempt counts now, before the model runs: an image that kills the process must not be tried for ever. A case
    whose lease ever ran out is given only to a caller in quarantine.
    """
    fit = [CaseRow.id == case_id, CaseRow.due_at <= func.now()]
    if not quarantined:
        fit.append(CaseRow.expired_leases == 0)
    rows = move_cases(
        session,
        Move.BEGIN,
        *fit,
        actor=f"worker:{owner}",
        body={"attempt": CaseRow.attempts, "token": CaseRow.lease_token},
        changes={"attempts": CaseRow.attempts + 1, **CASES.taken(owner, lease_seconds)},
    )
    return rows[0] if rows else None


def end_lease(
    session: Session,
    move: Move,
    case_id: UUID,
    token: int,
    *,
    actor: str,
    body: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    """Make the move that ends this lease. Raise LeaseLost when another worker has the case."""
    held, freed = CASES.held(case_id, token), {**CASES.let_go, **changes}
    if not move_cases(session, move, *held, actor=actor, body=body, changes=freed):
        raise LeaseLost("another worker has this case now")


def must_be_quarantined(session: Session, case_id: UUID) -> bool:
    """Whether the case is due and waits for a worker in quarantine."""
    found = session.scalar(
        select(CaseRow.id).where(
            CaseRow.id == case_id,
            CaseRow.state == before(Move.BEGIN),
            CaseRow.due_at <= func.now(),
            CaseRow.expired_leases > 0,
        )
    )
    return found is not None


def release_case(session: Session, case_id: UUID, token: int, *, actor: str, why: str, due_in: float) -> None:
    """Release the case to the line. The attempt does not count: the image was not at fault. Raise LeaseLost."""
    end_lease(
        session,
        Move.RELEASE,
        case_id,
        token,
        actor=actor,
        body={"why": why, "due_in": due_in},
        changes={
            "attempts": CaseRow.attempts - 1,
            "postponements": CaseRow.postponements + 1,
            "due_at": func.now() + seconds(due_in),
            "rung_at": None,
        },
    )


def refuse_case(
    session: Session,
    case_id: UUID,
    token: int,
    refusal: Refusal,
    *,
    actor: str,
    version_id: str | None = None,
) -> None:
    """Send the case to a person, without a verdict and with the reason. Raise LeaseLost.

    `version_id` is the version of the refused image, if it was fetched. The case is pinned to it.
    """
    end_lease(
        session,
        Move.REFUSE,
        case_id,
        token,
        actor=actor,
        body={"code": refusal.code},
        changes={
            "refusal_code": refusal.code,
            "refusal_message": refusal.message,
            **pinned(version_id),
            **now_ready(uncertainty(None)),
        },
    )
    enqueue(session, Kind.ANALYZED, case_id)


def retry_case(session: Session, case_id: UUID, *, actor: str) -> bool:
    """Return a case that is ready without a verdict to the line and clear its counters. False: it is no such case."""
    return retry_cases(session, [case_id], actor=actor) == 1


def retry_cases(session: Session, case_ids: Sequence[UUID], *where: ColumnElement[bool], actor: str) -> int:
    """The same with all of these cases that fit `where`; return how many were such cases."""
    rows = move_cases(
        session,
        Move.RETRY,
        CaseRow.id.in_(case_ids),
        CaseRow.refusal_code.is_not(None),
        *where,
        actor=actor,
        changes={
            "attempts": 0,
            "postponements": 0,
            "refusal_code": None,
            "refusal_message": None,
            "label": None,
            "technique": None,
            "due_at": func.now(),
            "rung_at": None,
        },
    )
    return len(rows)


def withdraw_case(session: Session, case_row: CaseRow, *, actor: str) -> None:
    """End a case whose platform takes the image back: nobody looks at it any more. The caller has locked the case.

    A worker that holds it finds its lease lost. Raise TransitionRefused when a decision ended the case.
    """
    move_cases(
        session,
        Move.RECALL,
        CaseRow.id == case_row.id,
        actor=actor,
        body={"was": case_row.state},
        changes={**CASES.let_go, "withdrawn_at": func.now()},
        origin=CaseState(case_row.state),
    )


def expire_leases(session: Session, *, actor: str, attempts_at_most: int) -> tuple[int, int]:
    """End leases that ran out. Return two counts: cases back in the line, cases without attempts sent to a person."""
    ran_out = CASES.ran_out()
    spent = move_cases(
        session,
        Move.REFUSE,
        ran_out,
        CaseRow.attempts >= attempts_at_most,
        actor=actor,
        body={"code": "attempts_exhausted", "attempts": CaseRow.attempts},
        changes={
            **CASES.let_go,
            "expired_leases": CaseRow.expired_leases + 1,
            "refusal_code": "attempts_exhausted",
            "refusal_message": "Analysing this image ended the worker or took too long every time it was tried.",
            **now_ready(uncertainty(None)),
        },
    )
    for row in spent:
        enqueue(session, Kind.ANALYZED, row.id)
    returned = move_cases(
        session,
        Move.EXPIRE,
        ran_out,
        actor=actor,
        body={"attempts": CaseRow.attempts},
        changes={
            **CASES.let_go,
            "expired_leases": CaseRow.expired_leases + 1,
            # 1, 2, 4 … at most 300 seconds with jitter, as `triage.retry_delay`: cases that failed at the same time
            # return at different times.
            "due_at": func.now()
            + seconds(func.least(300, func.power(2, CaseRow.attempts - 1)) * (0.5 + func.random() / 2)),
            "rung_at": None,
        },
    )
    return len(returned), len(spent)
