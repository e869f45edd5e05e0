"""Cases: opening them, finding them, and which of them to publish."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ScalarSelect, Select, or_, select, text, tuple_
from sqlalchemy.orm import Session, aliased

from moderation.analysis import Label, Technique
from moderation.cases import Case, CaseState, Flag, ImageRef, Lease, Refusal
from moderation.database.ids import first_id_at, new_id
from moderation.database.shapes import as_value, equal_to, known_sources
from moderation.database.tables import CaseRow, DecisionRow
from moderation.decisions import Outcome
from moderation.errors import CaseNotFound
from moderation.triage import LIVE_FROM, Lane, QueueStats

#: Seconds by which clocks may disagree: our hosts make ids, Postgres makes `created_at`.
CLOCKS_DISAGREE = 60.0


@dataclass(frozen=True)
class Opening:
    """A case to be opened. Its id is chosen first, so that a repeated insert is the same insert."""

    flag: Flag
    idempotency_key: str | None = None
    #: Whether its message is published right after the commit. Otherwise the sweeper publishes it.
    publish: bool = False
    id: UUID = field(default_factory=new_id)


#: One statement inserts one case or a thousand, and an event for each new one. It takes arrays, because a thousand
#: VALUES would take longer to parse than to run.
_INSERT_CASES = text("""
    WITH accepted AS (
        INSERT INTO cases (id, source, external_id, idempotency_key, request_digest, bucket, key, version_id,
                           reason, priority, context, state, version, rung_at)
        SELECT c.id, c.source, c.external_id, c.idempotency_key, c.request_digest, c.bucket, c.key, c.version_id,
               c.reason, c.priority, c.context::jsonb, 'waiting', 1,
               CASE WHEN c.publish THEN now() END
        FROM unnest(CAST(:id AS uuid[]), CAST(:source AS text[]), CAST(:external_id AS text[]),
                    CAST(:idempotency_key AS text[]), CAST(:request_digest AS bytea[]), CAST(:bucket AS text[]),
                    CAST(:key AS text[]), CAST(:version_id AS text[]), CAST(:reason AS text[]),
                    CAST(:priority AS int[]), CAST(:context AS text[]), CAST(:publish AS boolean[]))
             AS c (id, source, external_id, idempotency_key, request_digest, bucket, key, version_id,
                   reason, priority, context, publish)
        ON CONFLICT DO NOTHING
        RETURNING id, request_digest
    ), logged AS (
        INSERT INTO events (case_id, kind, actor, body, seq, previous, hash)
        SELECT id, 'accepted', :actor, jsonb_build_object('request', encode(request_digest, 'hex')), 0, '', ''
        FROM accepted
    )
    SELECT id FROM accepted
""")


def insert_cases(session: Session, openings: Sequence[Opening], *, actor: str) -> set[UUID]:
    """Insert the new ones, each with its event; return their ids. The others repeat an earlier case."""
    flags = [opening.flag for opening in openings]
    columns = {
        "id": [opening.id for opening in openings],
        "source": [flag.source for flag in flags],
        "external_id": [flag.external_id for flag in flags],
        "idempotency_key": [opening.idempotency_key for opening in openings],
        "request_digest": [flag.digest() for flag in flags],
        "bucket": [flag.image.bucket for flag in flags],
        "key": [flag.image.key for flag in flags],
        "version_id": [flag.image.version_id for flag in flags],
        "reason": [flag.reason for flag in flags],
        "priority": [flag.priority for flag in flags],
        "context": [None if flag.context is None else json.dumps(flag.context) for flag in flags],
        "publish": [opening.publish for opening in openings],
    }
    return set(session.scalars(_INSERT_CASES, {**columns, "actor": actor}).all())


def insert_case(session: Session, opening: Opening, *, actor: str) -> bool:
    """Insert one case with its event. False: it repeats an earlier case."""
    return bool(insert_cases(session, [opening], actor=actor))


@dataclass(frozen=True)
class Earlier:
    """A case that was opened before with the same external id or idempotency key."""

    id: UUID
    state: CaseState
    request_digest: bytes
    source: str
    external_id: str | None
    idempotency_key: str | None


def find_earlier(session: Session, openings: Sequence[Opening]) -> list[Earlier]:
    """The earlier cases that these openings would repeat."""
    external = [(o.flag.source, o.flag.external_id) for o in openings if o.flag.external_id is not None]
    keyed = [(o.flag.source, o.idempotency_key) for o in openings if o.idempotency_key is not None]
    rows = session.execute(
        select(
            CaseRow.id,
            CaseRow.state,
            CaseRow.request_digest,
            CaseRow.source,
            CaseRow.external_id,
            CaseRow.idempotency_key,
        ).where(
            or_(
                tuple_(CaseRow.source, CaseRow.external_id).in_(external),
                tuple_(CaseRow.source, CaseRow.idempotency_key).in_(keyed),
            )
        )
    )
    return [as_value(Earlier, row) for row in rows]


def find_case(session: Session, case_id: UUID) -> Case | None:
    row = session.get(CaseRow, case_id)
    return None if row is None else case_of(row)


def require_case(session: Session, case_id: UUID) -> Case:
    """The case with this id. Raise CaseNotFound."""
    case = find_case(session, case_id)
    if case is None:
        raise CaseNotFound(f"no case has the id {case_id}")
    return case


def find_cases(session: Session, case_ids: Sequence[UUID]) -> list[Case]:
    """The cases with these ids that exist, in this order."""
    found = {row.id: case_of(row) for row in session.scalars(select(CaseRow).where(CaseRow.id.in_(case_ids)))}
    return [found[case_id] for case_id in case_ids if case_id in found]


def case_of(row: Any) -> Case:
    """A `Case` from a row of the table or of a statement."""
    lease = None if row.lease_token is None else Lease(row.lease_token, row.lease_owner, row.lease_expires_at)
    refusal = None if row.refusal_code is None else Refusal(row.refusal_code, row.refusal_message)
    flag = as_value(Flag, row, image=as_value(ImageRef, row))
    return as_value(Case, row, flag=flag, lease=lease, refusal=refusal)


@dataclass(frozen=True)
class Filter:
    """Which cases a page shows. None: all."""

    state: CaseState | None = None
    source: str | None = None
    external_id: str | None = None
    #: Opened at or after, and before.
    since: datetime | None = None
    until: datetime | None = None
    #: Label of the verdict on show.
    label: Label | None = None
    technique: Technique | None = None
    #: Only cases that a person gets without a verdict.
    without_verdict: bool = False
    #: Outcome of the decision that stands.
    outcome: Outcome | None = None
    #: Decided at or after, and before.
    decided_since: datetime | None = None
    decided_until: datetime | None = None

    @property
    def by_decision(self) -> bool:
        """Whether it filters by decision. Such a page is in the order of decisions."""
        return (self.outcome, self.decided_since, self.decided_until) != (None, None, None)


def page_of_cases(session: Session, wanted: Filter, *, older_than: UUID | None, limit: int) -> list[Case]:
    """The newest cases first. The next page starts after the last id: UUIDv7 orders by time."""
    query = _fitting(wanted).order_by(CaseRow.id.desc()).limit(limit)
    if older_than is not None:
        query = query.where(CaseRow.id < older_than)
    return [case_of(row) for row in session.scalars(query)]


def page_of_decided(
    session: Session, wanted: Filter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Case]:
    """The last decided cases first. The next page starts after the last one's time and id."""
    query = _fitting(wanted).where(CaseRow.state == CaseState.DECIDED).limit(limit)
    query = query.order_by(CaseRow.decided_at.desc(), CaseRow.id.desc())
    if wanted.decided_since is not None:
        query = query.where(CaseRow.decided_at >= wanted.decided_since)
    if wanted.decided_until is not None:
        query = query.where(CaseRow.decided_at < wanted.decided_until)
    if wanted.outcome is not None:
        query = query.where(of_standing_decision("outcome") == wanted.outcome)
    if after is not None:
        query = query.where(tuple_(CaseRow.decided_at, CaseRow.id) < after)
    return [case_of(row) for row in session.scalars(query)]


def of_standing_decision(column: str) -> ScalarSelect[Any]:
    """This column of the case's latest decision that was not undone."""
    decision = aliased(DecisionRow)
    return (
        select(getattr(decision, column))
        .where(decision.case_id == CaseRow.id, decision.undone_at.is_(None))
        .order_by(decision.created_at.desc(), decision.id.desc())
        .limit(1)
        .correlate(CaseRow)
        .scalar_subquery()
    )


def _fitting(wanted: Filter) -> Select[CaseRow]:
    """The cases that fit, without the conditions on decisions."""
    columns = {
        CaseRow.state: wanted.state,
        CaseRow.source: wanted.source,
        CaseRow.external_id: wanted.external_id,
        CaseRow.label: wanted.label,
        CaseRow.technique: wanted.technique,
    }
    query = select(CaseRow).where(*equal_to(columns))
    if wanted.state not in (None, CaseState.DECIDED):
        # This tells the planner that the small index is enough.
        query = query.where(CaseRow.state != CaseState.DECIDED)
    if wanted.without_verdict:
        ended = CaseRow.state.in_((CaseState.READY, CaseState.DECIDED))
        query = query.where(CaseRow.label.is_(None), ended)
    # Also by id: ids are ordered by time and have an index.
    if wanted.since is not None:
        first = first_id_at(wanted.since, allow=CLOCKS_DISAGREE)
        query = query.where(CaseRow.created_at >= wanted.since, CaseRow.id >= first)
    if wanted.until is not None:
        last = first_id_at(wanted.until, allow=-CLOCKS_DISAGREE)
        query = query.where(CaseRow.created_at < wanted.until, CaseRow.id < last)
    return query


#: Sources take turns: first the most urgent case of each, then the second of each, and so on. One source's backlog is
#: not read to reach the next.
NEXT_OF_EVERY_SOURCE = text(f"""
    WITH RECURSIVE {known_sources("c.state = 'waiting'")}, first AS (
        SELECT next.*, row_number() OVER (PARTITION BY known.source
                                          ORDER BY next.priority DESC, next.due_at, next.id) AS turn
        FROM known, LATERAL (
            SELECT c.id, c.priority, c.due_at FROM cases c
            WHERE c.state = 'waiting' AND c.source = known.source AND c.due_at <= now()
              AND (c.rung_at IS NULL OR c.rung_at < now() - make_interval(secs => CAST(:again AS double precision)))
              AND c.priority BETWEEN :least AND :most
            ORDER BY c.priority DESC, c.due_at, c.id LIMIT :limit
        ) AS next
    ), chosen AS (
        SELECT id, turn FROM first ORDER BY turn, priority DESC, due_at, id LIMIT :limit
    ), locked AS (
        SELECT c.id FROM cases c WHERE c.id IN (SELECT id FROM chosen) AND c.state = 'waiting'
        FOR UPDATE SKIP LOCKED
    )
    UPDATE cases SET rung_at = now() FROM locked, chosen WHERE cases.id = locked.id AND chosen.id = locked.id
    RETURNING cases.id, chosen.turn, cases.priority
""")  # noqa: S608  of our own words alone


def due_cases(
    session: Session, *, limit: int, again_after: float | None, lane: Lane | None = None
) -> list[UUID]:
    """Waiting cases that are due and were never published, the urgent ones first. They are marked as published.

    Every source has the same share: a source with a million cases does not delay another. With `again_after`, also
    cases that were published longer ago than that. With `lane`, only cases in that lane.
    """
    least, most = {None: (0, 100), Lane.LIVE: (LIVE_FROM, 100), Lane.BACKFILL: (0, LIVE_FROM - 1)}[lane]
    rows = session.execute(
        NEXT_OF_EVERY_SOURCE, {"again": again_after, "least": least, "most": most, "limit": limit}
    ).all()
    return [row.id for row in sorted(rows, key=lambda row: (row.turn, -row.priority, row.id))]


#: Both states, so that a case that is taken and released again and again keeps its age. In each the first by id, which
#: is ordered by time. The condition is a range and not an equality, so that only the index of live cases has this
#: order, and no plan searches all of history.
_OLDEST = text("""
    SELECT extract(epoch FROM now() - least(
        (SELECT created_at FROM cases
         WHERE state >= 'waiting' AND state <= 'waiting' AND state <> 'decided' ORDER BY state, id LIMIT 1),
        (SELECT created_at FROM cases
         WHERE state >= 'analyzing' AND state <= 'analyzing' AND state <> 'decided' ORDER BY state, id LIMIT 1)))
""")

_STATS = text("""
    SELECT (SELECT count(*) FROM cases WHERE state = 'waiting') AS waiting,
           (SELECT count(*) FROM cases WHERE state = 'analyzing') AS analyzing,
           (SELECT count(*) FROM cases WHERE state = 'ready') AS ready,
           -- Not from the log of events: even its block ranges grow with history. What an appeal made ready is no
           -- work of the model's.
           ((SELECT count(*) FROM cases
              WHERE state = 'ready' AND ready_at > now() - interval '60 seconds' AND stage <> 'appeal')
            + (SELECT count(*) FROM cases
                WHERE state = 'decided' AND decided_at > now() - interval '60 seconds'
                  AND ready_at > now() - interval '60 seconds' AND stage <> 'appeal')) / 60.0 AS rate,
           (SELECT count(*) FROM (SELECT FROM reruns WHERE done_at IS NULL LIMIT 100000) AS counted) AS reruns
""")


def oldest_waiting_seconds(session: Session) -> float:
    """Age of the oldest case that waits or is being analysed. 0 when there is none. Two looks into an index."""
    return float(session.scalar(_OLDEST) or 0)


def queue_stats(session: Session) -> QueueStats:
    """The state of the line. It reads small indexes: the cost grows with live and recent cases, not with history."""
    row = session.execute(_STATS).one()
    oldest = oldest_waiting_seconds(session)
    return QueueStats(row.waiting, row.analyzing, row.ready, oldest, float(row.rate), row.reruns)
