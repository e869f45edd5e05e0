"""Every change of a case's state, as one statement: the fence, the move and its event together.

The states come from `moderation.cases.TRANSITIONS` and from nowhere else. A statement updates the cases that are in
the right state, under the right lease, and inserts one event for each of them; cases that are not so are simply not
in what it returns. Postgres's own clock is the only clock.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, Row, case, cast, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from moderation.cases import CaseState, Move, Refusal, Stage, after, before
from moderation.database.deliveries import Kind, enqueue
from moderation.database.tables import LEASE_TOKENS, CaseRow, EventRow
from moderation.errors import LeaseLost
from moderation.triage import PRIORITY_SECONDS, head_start, uncertainty

Moved = Row[Any]

_NO_LEASE: dict[str, Any] = {"lease_token": None, "lease_owner": None, "lease_expires_at": None}


def seconds(value: ColumnElement[Any] | float) -> ColumnElement[Any]:
    """A number of seconds as an interval."""
    return func.make_interval(0, 0, 0, 0, 0, 0, value)


def move_cases(
    session: Session,
    move: Move,
    *where: ColumnElement[bool],
    actor: str,
    body: dict[str, Any] | None = None,
    changes: dict[str, Any] | None = None,
    origin: CaseState | None = None,
) -> Sequence[Moved]:
    """Make `move` with every case that is allowed it and fits `where`; return those rows as they are now.

    `body` becomes the event's body: plain values, or SQL expressions over the changed row. `origin` is needed for the
    one move that starts from more states than one.
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
    flat: list[Any] = []
    for name, value in body.items():
        # A column of the row is read after the change; anything else is a constant.
        column = (
            moved.c[value.key]
            if isinstance(value, InstrumentedAttribute)
            else cast(literal(value, JSONB), JSONB)
        )
        flat += [name, column]
    return flat


def now_ready(uncertain: float, *, conflict: bool = False) -> dict[str, Any]:
    """What changes when a case becomes ready: since when it is, and its place in the reviewers' queue.

    By the stage it has: one that is tried again may have come to an appeal.
    """
    starts = {stage.value: head_start_of(uncertain, stage, conflict=conflict) for stage in Stage}
    by_stage = case(starts, value=CaseRow.stage)
    return {"ready_at": func.now(), "queued_at": func.now() - seconds(by_stage)}


def head_start_of(uncertain: float, stage: Stage, *, conflict: bool = False) -> ColumnElement[Any]:
    """`triage.head_start` of the case of the statement at this stage, by its priority."""
    # As a whole number: a small one, as the column is, overflows.
    return head_start(0, uncertain, stage, conflict=conflict) + PRIORITY_SECONDS * cast(
        CaseRow.priority, Integer
    )


def held(case_id: UUID, token: int) -> tuple[ColumnElement[bool], ...]:
    """The fence: this case, under this very lease. The state is added by `move_cases`."""
    return CaseRow.id == case_id, CaseRow.lease_token == token


def pinned(version_id: str | None) -> dict[str, Any]:
    """What changes when this version was read of an image whose flag named none.

    A reviewer, a question and a rerun then see what was read, whatever the key holds by then. None: the bucket keeps no
    versions.
    """
    return {} if version_id is None else {"version_id": func.coalesce(CaseRow.version_id, version_id)}


def begin_analysis(
    session: Session, case_id: UUID, *, owner: str, lease_seconds: float, alone: bool
) -> Moved | None:
    """Take a lease on a waiting case, or return None: it is done, taken, not due, or must be analysed alone.

    The attempt is counted here, before the model runs: an image that kills the process must not be tried for ever.
    A case whose lease ever ran out is only given to a caller that promises to analyse nothing else meanwhile.
    """
    fit = [CaseRow.id == case_id, CaseRow.due_at <= func.now()]
    if not alone:
        fit.append(CaseRow.expired_leases == 0)
    rows = move_cases(
        session,
        Move.BEGIN,
        *fit,
        actor=f"worker:{owner}",
        body={"attempt": CaseRow.attempts, "token": CaseRow.lease_token},
        changes={
            "attempts": CaseRow.attempts + 1,
            "lease_token": LEASE_TOKENS.next_value(),
            "lease_owner": owner,
            "lease_expires_at": func.now() + seconds(lease_seconds),
        },
    )
    return rows[0] if rows else None


def must_be_alone(session: Session, case_id: UUID) -> bool:
    """Whether the case is due and waits for a worker that analyses nothing else meanwhile."""
    found = session.scalar(
        select(CaseRow.id).where(
            CaseRow.id == case_id,
            CaseRow.state == before(Move.BEGIN),
            CaseRow.due_at <= func.now(),
            CaseRow.expired_leases > 0,
        )
    )
    return found is not None


def renew_leases(session: Session, tokens: Sequence[int], *, lease_seconds: float) -> set[int]:
    """Push the end of these leases out; return the tokens that still hold. Not a move: no event."""
    return set(
        session.scalars(
            update(CaseRow)
            .where(CaseRow.lease_token.in_(tokens), CaseRow.state == before(Move.RECORD))
            .values(lease_expires_at=func.now() + seconds(lease_seconds))
            .returning(CaseRow.lease_token)
            .execution_options(synchronize_session=False)
        ).all()
    )  # pyright: ignore[reportReturnType]


def hand_back(session: Session, case_id: UUID, token: int, *, actor: str, why: str, due_in: float) -> None:
    """Return the case to the line. The attempt does not count: the image was not at fault. Raise LeaseLost."""
    _one(
        move_cases(
            session,
            Move.HAND_BACK,
            *held(case_id, token),
            actor=actor,
            body={"why": why, "due_in": due_in},
            changes={
                **_NO_LEASE,
                "attempts": CaseRow.attempts - 1,
                "postponements": CaseRow.postponements + 1,
                "due_at": func.now() + seconds(due_in),
                "rung_at": None,
            },
        )
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
    """Put the case before a person, without a verdict and with the reason. Raise LeaseLost.

    `version_id` is that of the image which was refused, if it was fetched: the case is pinned to it.
    """
    _one(
        move_cases(
            session,
            Move.REFUSE,
            *held(case_id, token),
            actor=actor,
            body={"code": refusal.code},
            changes={
                **_NO_LEASE,
                "refusal_code": refusal.code,
                "refusal_message": refusal.message,
                **pinned(version_id),
                **now_ready(uncertainty(None)),
            },
        )
    )
    enqueue(session, Kind.ANALYZED, case_id)


def retry_case(session: Session, case_id: UUID, *, actor: str) -> bool:
    """Put a case that is ready without a verdict back into the line, its counters cleared. False: it is not so."""
    rows = move_cases(
        session,
        Move.RETRY,
        CaseRow.id == case_id,
        CaseRow.refusal_code.is_not(None),
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
    return bool(rows)


def withdraw_case(session: Session, case_row: CaseRow, *, actor: str) -> None:
    """Its platform takes the image back: nobody looks at it any more. The caller has locked the case.

    A worker that has it finds its lease lost. Raise TransitionRefused when a decision ended it.
    """
    move_cases(
        session,
        Move.RECALL,
        CaseRow.id == case_row.id,
        actor=actor,
        body={"was": case_row.state},
        changes={**_NO_LEASE, "withdrawn_at": func.now()},
        origin=CaseState(case_row.state),
    )


def expire_leases(session: Session, *, actor: str, attempts_at_most: int) -> tuple[int, int]:
    """Take back leases that ran out: (returned to the line, given to a person because the attempts are used up)."""
    ran_out = CaseRow.lease_expires_at < func.now()
    spent = move_cases(
        session,
        Move.REFUSE,
        ran_out,
        CaseRow.attempts >= attempts_at_most,
        actor=actor,
        body={"code": "attempts_exhausted", "attempts": CaseRow.attempts},
        changes={
            **_NO_LEASE,
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
            **_NO_LEASE,
            "expired_leases": CaseRow.expired_leases + 1,
            # 1, 2, 4 … at most 300 seconds with jitter, as `triage.retry_delay`: what failed together does not come
            # back together.
            "due_at": func.now()
            + seconds(func.least(300, func.power(2, CaseRow.attempts - 1)) * (0.5 + func.random() / 2)),
            "rung_at": None,
        },
    )
    return len(returned), len(spent)


def _one(rows: Sequence[Moved]) -> Moved:
    if not rows:
        raise LeaseLost("the case went on without this worker")
    return rows[0]
