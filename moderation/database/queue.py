"""The reviewers' queue: a page of it, how much there is, and taking from it.

Nothing here grows with history: the ready cases have small indexes of their own, a page starts where the last one
ended, and counts stop at `COUNT_AT_MOST`.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, exists, func, or_, select, text, tuple_
from sqlalchemy.orm import Session, aliased

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Stage
from moderation.database.moves import seconds
from moderation.database.tables import AnalysisRow, CaseRow, ClaimRow, PersonRow
from moderation.errors import CursorUnreadable

#: Counting stops here, so that it costs a queue of a million no more: nobody works differently for the thousand and
#: first case. `GET /v1/queue/stats` counts all.
COUNT_AT_MOST = 1000


@dataclass(frozen=True)
class QueueFilter:
    """Which cases a reviewer looks at. None: all."""

    #: READY in the order of the queue, DECIDED the latest first, the others the oldest first.
    state: CaseState = CaseState.READY
    source: str | None = None
    #: Of the verdict on show.
    label: Label | None = None
    #: Only cases without a verdict.
    without_verdict: bool = False
    #: True: only those that nobody can judge by a face, refused ones and those without one. False: only the others.
    aside: bool | None = None
    technique: Technique | None = None
    stage: Stage | None = None
    priority_at_least: int | None = None
    #: Ready for so many seconds.
    older_than_seconds: float | None = None
    #: Claimed by this person.
    claimed_by: UUID | None = None
    #: Claimed by nobody.
    unclaimed: bool = False
    #: Of pictures that look like one: the hash that leads them.
    campaign: int | None = None
    #: Of each campaign only the first case that fits. For READY; elsewhere nothing is collapsed.
    collapsed: bool = False


@dataclass(frozen=True)
class Place:
    """Where a page ended."""

    at: datetime
    id: UUID

    def cursor(self) -> str:
        """The same as text that a URL carries."""
        packed = json.dumps([self.at.isoformat(), str(self.id)], separators=(",", ":"))
        return base64.urlsafe_b64encode(packed.encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> Place:
    """Raise CursorUnreadable for a text that `Place.cursor` did not make."""
    try:
        at, case_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        place = Place(datetime.fromisoformat(at), UUID(case_id))
    except (ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise CursorUnreadable("this cursor is none of ours; start again without one") from error
    if place.at.tzinfo is None:
        raise CursorUnreadable("this cursor is none of ours; start again without one")
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
    #: What sorts it: `queued_at`, `decided_at` or `created_at`, as the state of the page has it.
    place: Place
    label: Label | None
    technique: Technique | None
    score: float | None
    calibrated: bool
    #: Why the verdict is undetermined: a code.
    abstain: str | None
    #: Why there is no verdict: a code.
    refusal: str | None
    #: The hash that leads the pictures that look like its own. None: it was not hashed.
    campaign: int | None
    #: Why it stands aside: `refused` or `no_face`. None: it does not.
    aside: str | None
    #: Who has it in front of them. None when nobody has.
    claimed_by: UUID | None
    claimed_by_name: str | None


def queue_page(
    session: Session, wanted: QueueFilter, *, after: Place | None = None, limit: int = 50
) -> list[QueuedCase]:
    """One page. The next one starts after the last one's `place`."""
    sort = _sort(wanted.state)
    page = _found(wanted).add_columns(sort.label("place")).limit(limit)
    page = page.order_by(*_in_order(wanted.state, sort, CaseRow.id))
    if after is not None:
        page = page.where(_beyond(wanted.state, sort, after))
    if wanted.collapsed and wanted.state is CaseState.READY:
        page = page.where(_first_of_campaign(wanted))
    return _lines(session, page.cte("page"), wanted.state)


def lines_of(session: Session, case_ids: Sequence[UUID]) -> list[QueuedCase]:
    """These cases as lines of the queue, in this order. Those that are none are left out."""
    chosen = select(CaseRow.id, CaseRow.created_at.label("place")).where(CaseRow.id.in_(case_ids)).cte("page")
    found = {line.id: line for line in _lines(session, chosen, None)}
    return [found[case_id] for case_id in case_ids if case_id in found]


def _lines(session: Session, chosen: Any, state: CaseState | None) -> list[QueuedCase]:
    """The cases of this CTE, in the order of a page of this state. None: in any."""
    row = aliased(CaseRow)
    claim = (
        select(ClaimRow.person_id, PersonRow.name)
        .join(PersonRow, PersonRow.id == ClaimRow.person_id)
        .where(ClaimRow.case_id == row.id, ClaimRow.expires_at > func.now(), row.state == CaseState.READY)
        .lateral("claim")
    )
    found = session.execute(
        select(row, chosen.c.place, AnalysisRow.score, AnalysisRow.calibrated, AnalysisRow.abstain, claim)
        .select_from(chosen)
        .join(row, row.id == chosen.c.id)
        .outerjoin(AnalysisRow, AnalysisRow.id == row.analysis_id)
        .outerjoin(claim, text("true"))
        .order_by(*(() if state is None else _in_order(state, chosen.c.place, row.id)))
    )
    return [_line(case, *others) for case, *others in found]


def _in_order(state: CaseState, sort: Any, case_id: Any) -> tuple[Any, ...]:
    """What a page is cut by and shown in. Of what waits or is analysed, ids are near enough to the order of time."""
    match state:
        case CaseState.READY:
            return sort, case_id
        case CaseState.DECIDED:
            return sort.desc(), case_id.desc()
        case _:
            return (case_id,)


def _beyond(state: CaseState, sort: Any, after: Place) -> ColumnElement[bool]:
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
    return QueuedCase(
        id=case.id,
        state=CaseState(case.state),
        stage=Stage(case.stage),
        version=case.version,
        source=case.source,
        external_id=case.external_id,
        reason=case.reason,
        priority=case.priority,
        created_at=case.created_at,
        ready_at=case.ready_at,
        decided_at=case.decided_at,
        place=Place(place, case.id),
        label=None if case.label is None else Label(case.label),
        technique=None if case.technique is None else Technique(case.technique),
        score=score,
        calibrated=bool(calibrated),
        abstain=abstain,
        refusal=case.refusal_code,
        campaign=case.campaign,
        aside=case.set_aside,
        claimed_by=claimed_by,
        claimed_by_name=claimed_by_name,
    )


def _sort(state: CaseState) -> Any:
    match state:
        case CaseState.READY:
            return CaseRow.queued_at
        case CaseState.DECIDED:
            return CaseRow.decided_at
        case _:
            return CaseRow.created_at


def _found(wanted: QueueFilter) -> Select[Any]:
    return select(CaseRow.id).where(*fits(wanted))


def fits(wanted: QueueFilter) -> list[ColumnElement[bool]]:
    """The conditions of a filter."""
    # As text and not as a parameter: only then does the planner know that the small index of this state serves.
    conditions: list[ColumnElement[bool]] = [text(f"cases.state = '{wanted.state.value}'")]  # pyright: ignore[reportAssignmentType]
    columns = {
        CaseRow.source: wanted.source,
        CaseRow.label: wanted.label,
        CaseRow.technique: wanted.technique,
        CaseRow.stage: wanted.stage,
        CaseRow.campaign: wanted.campaign,
    }
    conditions += [column == value for column, value in columns.items() if value is not None]
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


def _first_of_campaign(wanted: QueueFilter) -> ColumnElement[bool]:
    """No case that fits as well and looks alike stands before it. One look into a small index for each case."""
    earlier = aliased(CaseRow, name="earlier")
    alike = select(earlier.id).where(
        text("earlier.state = 'ready' AND earlier.campaign = cases.campaign"),
        tuple_(earlier.queued_at, earlier.id) < tuple_(CaseRow.queued_at, CaseRow.id),
        *(
            column == value
            for column, value in (
                (earlier.source, wanted.source),
                (earlier.label, wanted.label),
                (earlier.technique, wanted.technique),
                (earlier.stage, wanted.stage),
            )
            if value is not None
        ),
    )
    if wanted.aside is not None:
        alike = alike.where(earlier.set_aside.is_not(None) if wanted.aside else earlier.set_aside.is_(None))
    return or_(CaseRow.campaign.is_(None), ~alike.correlate(CaseRow).exists())


def aside_since(session: Session, why: str, older_than_seconds: float, *, limit: int) -> Sequence[UUID]:
    """Cases that stand aside for this reason, and have for so long, and that nobody has before them."""
    return session.scalars(
        select(CaseRow.id)
        .where(
            *fits(QueueFilter(aside=True, older_than_seconds=older_than_seconds, unclaimed=True)),
            CaseRow.set_aside == why,
        )
        .order_by(CaseRow.queued_at, CaseRow.id)
        .limit(limit)
    ).all()


def unclaimed() -> ColumnElement[bool]:
    """Nobody has the case in front of them."""
    return ~exists().where(ClaimRow.case_id == CaseRow.id, ClaimRow.expires_at > func.now())


@dataclass(frozen=True)
class QueueCounts:
    """How much there is to do. Counts stop at COUNT_AT_MOST: that many means "or more"."""

    waiting: int
    analyzing: int
    #: By the review that is waited for, without those that stand aside.
    ready: dict[Stage, int]
    #: Ready, and nobody can judge them by a face.
    aside: int
    #: In front of somebody now.
    claimed: int
    #: Seconds since the oldest ready case became ready. 0 when none is.
    oldest_ready_seconds: float

    @property
    def all_ready(self) -> int:
        return min(COUNT_AT_MOST, sum(self.ready.values()))


def queue_counts(session: Session) -> QueueCounts:
    """Reads the small indexes and at most COUNT_AT_MOST entries of each."""
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
    # By the oldest of all: what stands aside waits too.
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
    """The sources of the ready cases: what a filter offers. One index probe for each."""
    return session.scalars(
        text("""
            WITH RECURSIVE found AS (
                (SELECT source FROM cases WHERE state = 'ready' ORDER BY source LIMIT 1)
                UNION ALL
                SELECT (SELECT source FROM cases WHERE state = 'ready' AND source > found.source
                        ORDER BY source LIMIT 1)
                FROM found WHERE found.source IS NOT NULL
            )
            SELECT source FROM found WHERE source IS NOT NULL LIMIT 200
        """)
    ).all()
