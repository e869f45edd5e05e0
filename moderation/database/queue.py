"""The reviewers' queue: a page of it, how much there is, and taking from it.

No cost grows with history: ready cases have their own small indexes, a page starts where the last one ended, and counts
stop at `COUNT_AT_MOST`.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select, text, tuple_
from sqlalchemy.orm import Session, aliased

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Stage
from moderation.database.shapes import as_value, equal_to, known_sources, seconds
from moderation.database.tables import AnalysisRow, CaseRow, ClaimRow, PersonRow
from moderation.errors import CursorUnreadable

#: Counting stops here, so that a queue of a million costs no more. Nobody works differently for case 1,001.
#: `GET /v1/queue/stats` counts all.
COUNT_AT_MOST = 1000


@dataclass(frozen=True)
class QueueFilter:
    """Which cases a reviewer looks at. None: all."""

    #: READY is in the order of the queue, DECIDED has the latest first, the others the oldest first.
    state: CaseState = CaseState.READY
    source: str | None = None
    #: Label of the verdict on show.
    label: Label | None = None
    #: Only cases without a verdict.
    without_verdict: bool = False
    #: True: only cases that nobody can judge by a face: refused ones and those without a face. False: only the others.
    aside: bool | None = None
    technique: Technique | None = None
    stage: Stage | None = None
    priority_at_least: int | None = None
    #: Ready for at least so many seconds.
    older_than_seconds: float | None = None
    #: Claimed by this person.
    claimed_by: UUID | None = None
    #: Claimed by nobody.
    unclaimed: bool = False
    #: Only pictures that look like this one: the hash that leads their campaign.
    campaign: int | None = None
    #: Only the first fitting case of each campaign. Only READY cases are collapsed.
    collapsed: bool = False


@dataclass(frozen=True)
class PageEnd:
    """Where a page ended."""

    at: datetime
    id: UUID

    def cursor(self) -> str:
        """The same as text for a URL."""
        packed = json.dumps([self.at.isoformat(), str(self.id)], separators=(",", ":"))
        return base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> PageEnd:
    """Raise CursorUnreadable for a text that `PageEnd.cursor` did not make."""
    try:
        at, case_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = PageEnd(datetime.fromisoformat(at), UUID(case_id))
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise CursorUnreadable("this cursor is unknown; start again without one") from error
    if place.at.tzinfo is None:
        raise CursorUnreadable("this cursor is unknown; start again without one")
    return place


@dataclass(frozen=True)
class QueuedCase:
    """One line of the queue."""

    id: UUID
    state: CaseState
    stage: Stage
    version: int
    source: str
    external_id: str | None
    #: In the platform's words.
    reason: str | None
    priority: int
    created_at: datetime
    ready_at: datetime | None
    decided_at: datetime | None
    #: Where it is sorted: `queued_at`, `decided_at` or `created_at`, depending on the page's state.
    place: PageEnd
    label: Label | None
    technique: Technique | None
    score: float | None
    calibrated: bool
    #: Why the verdict is undetermined: a code.
    abstain: str | None
    #: Why there is no verdict: a code.
    refusal: str | None
    #: The hash that leads its campaign of similar pictures. None: it has no hash.
    campaign: int | None
    #: Why it stands aside: `refused` or `no_face`. None: it does not.
    aside: str | None
    #: Who has claimed it. None: nobody.
    claimed_by: UUID | None
    claimed_by_name: str | None


def queue_page(
    session: Session, wanted: QueueFilter, *, after: PageEnd | None = None, limit: int = 50
) -> list[QueuedCase]:
    """One page. The next page starts after the `place` of the last line."""
    sort = _sort(wanted.state)
    page = select(CaseRow.id, sort.label("place")).where(*fits(wanted)).limit(limit)
    page = page.order_by(*_in_order(wanted.state, sort, CaseRow.id))
    if after is not None:
        page = page.where(_beyond(wanted.state, sort, after))
    if wanted.collapsed and wanted.state is CaseState.READY:
        page = page.where(_first_of_campaign(wanted))
    return _lines(session, page.cte("page"), wanted.state)


def lines_of(session: Session, case_ids: Sequence[UUID]) -> list[QueuedCase]:
    """These cases as lines of the queue, in this order. Unknown ids are left out."""
    page = select(CaseRow.id, CaseRow.created_at.label("place")).where(CaseRow.id.in_(case_ids)).cte("page")
    found = {line.id: line for line in _lines(session, page, None)}
    return [found[case_id] for case_id in case_ids if case_id in found]


def _lines(session: Session, page: Any, state: CaseState | None) -> list[QueuedCase]:
    """The cases of this CTE, in the order of a page of this state. None: in any order."""
    row = aliased(CaseRow)
    claim = (
        select(ClaimRow.person_id, PersonRow.name)
        .join(PersonRow, PersonRow.id == ClaimRow.person_id)
        .where(ClaimRow.case_id == row.id, ClaimRow.expires_at > func.now(), row.state == CaseState.READY)
        .lateral("claim")
    )
    found = session.execute(
        select(row, page.c.place, AnalysisRow.score, AnalysisRow.calibrated, AnalysisRow.abstain, claim)
        .select_from(page)
        .join(row, row.id == page.c.id)
        .outerjoin(AnalysisRow, AnalysisRow.id == row.analysis_id)
        .outerjoin(claim, text("true"))
        .order_by(*(() if state is None else _in_order(state, page.c.place, row.id)))
    )
    return [_line(case, *others) for case, *others in found]


def _in_order(state: CaseState, sort: Any, case_id: Any) -> tuple[Any, ...]:
    """The order of a page. For waiting and analysing cases, the order of ids is close enough to time."""
    match state:
        case CaseState.READY:
            return sort, case_id
        case CaseState.DECIDED:
            return sort.desc(), case_id.desc()
        case _:
            return (case_id,)


def _beyond(state: CaseState, sort: Any, after: PageEnd) -> ColumnElement[bool]:
    match state:
        case CaseState.READY:
            return tuple_(sort, CaseRow.id) > (after.at, after.id)
        case CaseState.DECIDED:
            return tuple_(sort, CaseRow.id) < (after.at, after.id)
        case _:
            return CaseRow.id > after.id


def _line(
    case: CaseRow,
    place: datetime,
    score: float | None,
    calibrated: bool | None,  # noqa: FBT001
    abstain: str | None,
    claimed_by: UUID | None,
    claimed_by_name: str | None,
) -> QueuedCase:
    return as_value(
        QueuedCase,
        case,
        place=PageEnd(place, case.id),
        score=score,
        calibrated=bool(calibrated),
        abstain=abstain,
        refusal=case.refusal_code,
        aside=case.set_aside,
        claimed_by=claimed_by,
        claimed_by_name=claimed_by_name,
    )


def _sort(state: CaseState) -> Any:
    sorts = {CaseState.READY: CaseRow.queued_at, CaseState.DECIDED: CaseRow.decided_at}
    return sorts.get(state, CaseRow.created_at)


def fits(wanted: QueueFilter) -> list[ColumnElement[bool]]:
    """The conditions of a filter."""
    # As text, not as a parameter, so that the planner can use the small index of this state.
    conditions: list[ColumnElement[bool]] = [text(f"cases.state = '{wanted.state.value}'")]  # pyright: ignore[reportAssignmentType]
    conditions += equal_to({**_columns(CaseRow, wanted), CaseRow.campaign: wanted.campaign})
    if wanted.without_verdict:
        conditions.append(CaseRow.label.is_(None))
    if wanted.aside is not None and wanted.state is CaseState.READY:
        conditions.append(CaseRow.set_aside.is_not(None) if wanted.aside else CaseRow.set_aside.is_(None))
    if wanted.priority_at_least is not None:
        conditions.append(CaseRow.priority >= wanted.priority_at_least)
    if wanted.older_than_seconds is not None:
        conditions.append(CaseRow.ready_at <= func.now() - seconds(wanted.older_than_seconds))
    if wanted.claimed_by is not None:
        mine = select(ClaimRow.case_id).where(
            ClaimRow.person_id == wanted.claimed_by, ClaimRow.expires_at > func.now()
        )
        conditions.append(CaseRow.id.in_(mine))
    if wanted.unclaimed:
        conditions.append(unclaimed())
    return conditions


def _columns(case: Any, wanted: QueueFilter) -> dict[Any, str | None]:
    """Columns of the case, or of an alias of it, with the values that are wanted."""
    return {
        case.source: wanted.source,
        case.label: wanted.label,
        case.technique: wanted.technique,
        case.stage: wanted.stage,
    }


def _first_of_campaign(wanted: QueueFilter) -> ColumnElement[bool]:
    """No similar case that also fits comes before it. One look into a small index for each case."""
    earlier = aliased(CaseRow, name="earlier")
    alike = select(earlier.id).where(
        text("earlier.state = 'ready' AND earlier.campaign = cases.campaign"),
        tuple_(earlier.queued_at, earlier.id) < tuple_(CaseRow.queued_at, CaseRow.id),
        *equal_to(_columns(earlier, wanted)),
    )
    if wanted.aside is not None:
        alike = alike.where(earlier.set_aside.is_not(None) if wanted.aside else earlier.set_aside.is_(None))
    return or_(CaseRow.campaign.is_(None), ~alike.correlate(CaseRow).exists())


def aside_since(session: Session, why: str, older_than_seconds: float, *, limit: int) -> Sequence[UUID]:
    """Unclaimed cases that have stood aside for this reason for so long."""
    return session.scalars(
        select(CaseRow.id)
        .where(
            *fits(QueueFilter(aside=True, older_than_seconds=older_than_seconds, unclaimed=True)),
            CaseRow.set_aside == why,
        )
        .order_by(CaseRow.queued_at, CaseRow.id)
        .limit(limit)
    ).all()


def refused_since(session: Session, code: str, since: datetime) -> Sequence[UUID]:
    """Unclaimed cases without a verdict for this reason that became ready at or after this time, the oldest first."""
    session.execute(text("SET LOCAL statement_timeout = 0"))  # a search for rare cases takes long
    return session.scalars(
        select(CaseRow.id)
        .where(*fits(QueueFilter(unclaimed=True)), CaseRow.refusal_code == code, CaseRow.ready_at >= since)
        .order_by(CaseRow.ready_at, CaseRow.id)
    ).all()


def unclaimed() -> ColumnElement[bool]:
    """Nobody has claimed the case."""
    return ~exists().where(ClaimRow.case_id == CaseRow.id, ClaimRow.expires_at > func.now())


@dataclass(frozen=True)
class QueueCounts:
    """How much there is to do. Counts stop at COUNT_AT_MOST, which means "or more"."""

    waiting: int
    analyzing: int
    #: By the stage that they wait for, without cases that stand aside.
    ready: dict[Stage, int]
    #: Ready cases that nobody can judge by a face.
    aside: int
    #: Claimed now.
    claimed: int
    #: Seconds since the oldest ready case became ready. 0 when none is.
    oldest_ready_seconds: float

    @property
    def all_ready(self) -> int:
        return min(COUNT_AT_MOST, sum(self.ready.values()))


def queue_counts(session: Session) -> QueueCounts:
    """Count in the small indexes, at most COUNT_AT_MOST entries of each."""
    counted = {
        **{
            f"ready_{stage}": f"cases WHERE state = 'ready' AND set_aside IS NULL AND stage = '{stage}'"
            for stage in Stage
        },
        "aside": "cases WHERE state = 'ready' AND set_aside IS NOT NULL",
        "waiting": "cases WHERE state = 'waiting'",
        "analyzing": "cases WHERE state = 'analyzing'",
        "claimed": "claims WHERE expires_at > now()",
    }
    columns = [
        f"(SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT {COUNT_AT_MOST}) AS few) AS {name}"  # noqa: S608  ours
        for name, source in counted.items()
    ]
    # The oldest of all, because cases that stand aside wait too.
    oldest = "(SELECT extract(epoch FROM now() - min(ready_at)) FROM cases WHERE state = 'ready') AS oldest"
    counts = f"SELECT {', '.join([*columns, oldest])}"
    row = session.execute(text(counts)).mappings().one()
    return QueueCounts(
        waiting=row["waiting"],
        analyzing=row["analyzing"],
        ready={stage: row[f"ready_{stage}"] for stage in Stage},
        aside=row["aside"],
        claimed=row["claimed"],
        oldest_ready_seconds=float(row["oldest"] or 0),
    )


def sources_in_queue(session: Session) -> Sequence[str]:
    """The sources of the ready cases, for a filter. One look into an index for each."""
    known = known_sources("c.state = 'ready'")
    query = f"WITH RECURSIVE {known} SELECT source FROM known WHERE source IS NOT NULL LIMIT 200"  # noqa: S608  ours
    return session.scalars(text(query)).all()
