"""Analyses asked for beside a case's own: in the shadow, to compare two bundles, or anew, to be shown in its place.

A rerun is a row as a question is one: taken by a worker under a number, ended once, rung for again while it waits.
Nothing that becomes of it changes the case, but for an analysis anew that was made: that one is shown.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.analysis import Analysis, Label, Verdict
from moderation.cases import CaseState, ImageRef, Move
from moderation.database.analyses import StoredAnalysis, analysis_by, insert_analysis
from moderation.database.deliveries import Kind, enqueue
from moderation.database.ids import first_id_at, new_id
from moderation.database.moves import move_cases, pinned, seconds
from moderation.database.queue import unclaimed
from moderation.database.review import lock_case
from moderation.database.tables import AnalysisRow, CaseRow, RerunRow
from moderation.errors import ImageChanged
from moderation.presentation import verdict_from_json
from moderation.triage import head_start, uncertainty

#: The states in which a case has had its own analysis, or the reason that there is none.
LOOKED_AT = (CaseState.READY, CaseState.DECIDED)
#: Who asked for a shadow that a rollout put in.
ROLLOUT = "rollout"
#: The failures of a rerun whose case is not here any more. The others are codes of refused images, and of the worker.
ERASED, ARCHIVED, WITHDRAWN = "erased", "archived", "withdrawn"
#: Days after which a rerun is given up when no live worker could take it.
WAITS_DAYS = 7


@dataclass(frozen=True)
class Wanted:
    """Which cases are to be analysed once more. None: all."""

    states: Sequence[CaseState] = LOOKED_AT
    source: str | None = None
    #: Of the verdict on show.
    label: Label | None = None
    #: Accepted from, and before.
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Waiting:
    """A rerun that is not done."""

    fingerprint: str
    #: It ended a worker, or may have, or its picture may have before: it is tried while nothing else is.
    alone: bool


@dataclass(frozen=True)
class Begun:
    """A rerun that a worker has taken."""

    id: UUID
    case_id: UUID
    fingerprint: str
    image: ImageRef
    #: Which taking this is, from 1: the analysis is written under it.
    attempt: int
    #: Of the bytes that the analysis on show was made of, in hexadecimal. None: there is none.
    sha256: str | None


# --- asking


def insert_shadow(session: Session, case_id: UUID, fingerprint: str) -> None:
    """Ask for an analysis that is not shown, once. The sweeper rings."""
    session.execute(
        upsert(RerunRow)
        .values(id=new_id(), case_id=case_id, fingerprint=fingerprint, shadow=True, asked_by=ROLLOUT)
        .on_conflict_do_nothing(constraint="reruns_once")
    )


def cases_to_rerun(
    session: Session, fingerprint: str, wanted: Wanted, *, shadow: bool, after: UUID | None, limit: int
) -> Sequence[UUID]:
    """A page of the cases that this pipeline could analyse once more, in the order of their ids from `after` on.

    Not those that are erased or archived; nor those that it analysed already, or for which its analysis is on show.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))  # what is rare is looked for long
    done = exists().where(AnalysisRow.case_id == CaseRow.id, AnalysisRow.fingerprint == fingerprint)
    if not shadow:
        done = done.where(AnalysisRow.id == CaseRow.analysis_id)
    # The states as text and not as parameters: only then does the planner know that a small index serves.
    states = ", ".join(f"'{state.value}'" for state in wanted.states)
    where: list[Any] = [
        text(f"cases.state IN ({states})"),
        CaseRow.erased_at.is_(None),
        CaseRow.archive_id.is_(None),
        ~done,
    ]
    if wanted.source is not None:
        where.append(CaseRow.source == wanted.source)
    if wanted.label is not None:
        where.append(CaseRow.label == wanted.label)
    if wanted.since is not None:
        where.append(CaseRow.id >= first_id_at(wanted.since))
    if wanted.until is not None:
        where.append(CaseRow.id < first_id_at(wanted.until))
    if after is not None:
        where.append(CaseRow.id > after)
    return session.scalars(select(CaseRow.id).where(*where).order_by(CaseRow.id).limit(limit)).all()


def insert_reruns(
    session: Session, fingerprint: str, case_ids: Sequence[UUID], *, shadow: bool, asked_by: str
) -> int:
    """Ask for these; return how many are new. One that is done is asked for again; one that waits keeps waiting.

    A shadow that waits becomes one to be shown when that is asked for. A case that was archived meanwhile is left out.
    """
    case_ids = _kept_here(session, case_ids)
    if not case_ids:
        return 0
    asked = upsert(RerunRow).values(
        [
            {
                "id": new_id(),
                "case_id": case_id,
                "fingerprint": fingerprint,
                "shadow": shadow,
                "asked_by": asked_by,
            }
            for case_id in case_ids
        ]
    )
    again = RerunRow.done_at.is_not(None)
    statement = asked.on_conflict_do_update(
        constraint="reruns_once",
        set_={
            "shadow": asked.excluded.shadow,
            "asked_by": asked.excluded.asked_by,
            "created_at": func.now(),
            "attempts": case((again, 0), else_=RerunRow.attempts),
            "begun_at": case((~again, RerunRow.begun_at)),
            "rung_at": case((~again, RerunRow.rung_at)),
            "done_at": None,
            "failure": None,
        },
        where=or_(again, RerunRow.shadow & ~asked.excluded.shadow),
    )
    return len(session.execute(statement.returning(RerunRow.id)).all())


def _kept_here(session: Session, case_ids: Sequence[UUID]) -> Sequence[UUID]:
    """Those of these cases that are not archived, and will not be before the transaction ends."""
    # An archiver locks what it takes FOR UPDATE: this waits for it, and makes it wait, and nobody else.
    return session.scalars(
        select(CaseRow.id)
        .where(CaseRow.id.in_(case_ids), CaseRow.archive_id.is_(None))
        .order_by(CaseRow.id)
        .with_for_update(read=True, key_share=True)
    ).all()


# --- taking


def find_waiting(session: Session, rerun_id: UUID) -> Waiting | None:
    """None: there is none, or it is done."""
    row = session.execute(
        select(RerunRow.fingerprint, or_(RerunRow.attempts > 0, CaseRow.expired_leases > 0))
        .join(CaseRow, CaseRow.id == RerunRow.case_id)
        .where(RerunRow.id == rerun_id, RerunRow.done_at.is_(None))
    ).first()
    return None if row is None else Waiting(*row)


def begin_rerun(session: Session, rerun_id: UUID, *, actor: str, stale_after: float) -> Begun | None:
    """Take a rerun; None when there is nothing for a model to do.

    It is done, or another worker took it less than `stale_after` seconds ago; the case is waiting for its own analysis;
    or it ends right here: the case was erased or archived, or this pipeline has analysed it already. Of a case that
    shows nothing that analysis may be of another picture: there the picture is read first.
    """
    taken = session.execute(
        update(RerunRow)
        .where(
            RerunRow.id == rerun_id,
            RerunRow.done_at.is_(None),
            _free(stale_after),
            exists().where(
                CaseRow.id == RerunRow.case_id, CaseRow.state.in_((*LOOKED_AT, CaseState.WITHDRAWN))
            ),
        )
        .values(attempts=RerunRow.attempts + 1, begun_at=func.now())
        .returning(RerunRow.case_id, RerunRow.fingerprint, RerunRow.attempts)
        .execution_options(synchronize_session=False)
    ).first()
    if taken is None:
        return None
    row = session.execute(
        select(
            CaseRow.bucket,
            CaseRow.key,
            CaseRow.version_id,
            CaseRow.state,
            CaseRow.erased_at,
            CaseRow.archive_id,
            AnalysisRow.image_sha256,
        )
        .outerjoin(AnalysisRow, AnalysisRow.id == CaseRow.analysis_id)
        .where(CaseRow.id == taken.case_id)
    ).one()
    sha256 = None if row.image_sha256 is None else row.image_sha256.hex()
    image = ImageRef(row.bucket, row.key, row.version_id)
    begun = Begun(rerun_id, taken.case_id, taken.fingerprint, image, taken.attempts, sha256)
    if row.erased_at is not None or row.archive_id is not None:
        fail_rerun(session, begun, ERASED if row.erased_at is not None else ARCHIVED)
        return None
    if row.state == CaseState.WITHDRAWN:
        fail_rerun(session, begun, WITHDRAWN)
        return None
    made = analysis_by(session, begun.case_id, begun.fingerprint)
    if made is not None and begun.sha256 is not None:
        record_rerun(session, begun, made.analysis, actor=actor, new_id=made.id)
        return None
    return begun


# --- ending


def record_rerun(
    session: Session,
    begun: Begun,
    analysis: Analysis,
    *,
    actor: str,
    new_id: UUID,
    version_id: str | None = None,
    conflicts: Callable[[Verdict], bool] = lambda _: False,
) -> bool:
    """Store the analysis, and show it when it was asked for anew. False: somebody else has ended this rerun.

    `version_id` is that of the image which was fetched: the case is pinned to it, in the shadow too, or what was said
    there might be shown beside another picture later. An analysis of another picture than the case's is thrown away.
    `conflicts` says whether what the picture is declared to be does not fit a verdict: see `triage.head_start`.
    The rerun is locked before its case, here and everywhere. A case that was erased meanwhile gets nothing any more.
    """
    asked = session.execute(
        select(RerunRow.shadow, RerunRow.asked_by).where(*_held(begun)).with_for_update()
    ).first()
    if asked is None:
        return False
    case_row = lock_case(session, begun.case_id)
    assert case_row is not None, "a case with a rerun is never deleted"
    if case_row.erased_at is not None:
        return fail_rerun(session, begun, ERASED)
    if case_row.state == CaseState.WITHDRAWN:
        return fail_rerun(session, begun, WITHDRAWN)
    before = None if case_row.analysis_id is None else session.get(AnalysisRow, case_row.analysis_id)
    if _is_of_another(case_row, before, analysis, version_id):
        return fail_rerun(session, begun, ImageChanged.code)
    try:
        made = insert_analysis(session, begun.case_id, analysis, new_id=new_id)
    except ImageChanged as error:
        return fail_rerun(session, begun, error.code)
    _pin(session, case_row, version_id)
    if not asked.shadow and case_row.state in LOOKED_AT and case_row.analysis_id != made.id:
        _show(session, case_row, before, made, conflicts, actor=actor, asked_by=asked.asked_by)
    return _end(session, *_held(begun))


def _is_of_another(
    case_row: CaseRow, before: AnalysisRow | None, analysis: Analysis, version_id: str | None
) -> bool:
    """Whether the analysis is of other bytes than the one on show, or of another version than the case names by now."""
    if before is not None and before.image_sha256.hex() != analysis.picture.sha256:
        return True
    return case_row.version_id is not None and version_id not in (None, case_row.version_id)


def _pin(session: Session, case_row: CaseRow, version_id: str | None) -> None:
    """Let the case name the version that was read. Not while a worker analyses it: that one may have read another."""
    if case_row.state == CaseState.ANALYZING or case_row.version_id is not None or version_id is None:
        return
    session.execute(
        update(CaseRow)
        .where(CaseRow.id == case_row.id)
        .values(pinned(version_id))
        .execution_options(synchronize_session=False)
    )


def _show(
    session: Session,
    case_row: CaseRow,
    before: AnalysisRow | None,
    made: StoredAnalysis,
    conflicts: Callable[[Verdict], bool],
    *,
    actor: str,
    asked_by: str,
) -> None:
    """Put what was made in the place of what is on show. The state stays, and so does what was decided."""
    verdict = made.analysis.verdict
    was = _doubt(None if before is None else verdict_from_json(before.verdict), conflicts)
    # Its age stays, and what its stage is worth. Nobody has it in front of them, or it would move under their hands.
    gained = seconds(_doubt(verdict, conflicts) - was)
    moves_up = (CaseRow.state == CaseState.READY) & unclaimed()
    move_cases(
        session,
        Move.REANALYZE,
        CaseRow.id == case_row.id,
        origin=CaseState(case_row.state),
        actor=actor,
        body={
            "analysis": str(made.id),
            "replaces": None if case_row.analysis_id is None else str(case_row.analysis_id),
            "fingerprint": made.analysis.fingerprint,
            "label": verdict.label,
            "score": verdict.score,
            "asked_by": asked_by,
        },
        changes={
            "analysis_id": made.id,
            "label": verdict.label,
            "technique": verdict.technique,
            "refusal_code": None,
            "refusal_message": None,
            "queued_at": case((moves_up, CaseRow.queued_at - gained), else_=CaseRow.queued_at),
        },
    )
    enqueue(session, Kind.ANALYZED, case_row.id)


def _doubt(verdict: Verdict | None, conflicts: Callable[[Verdict], bool]) -> float:
    """Seconds of `triage.head_start` that come from the verdict."""
    return head_start(0, uncertainty(verdict), conflict=verdict is not None and conflicts(verdict))


def fail_rerun(session: Session, begun: Begun, code: str) -> bool:
    """Give the rerun up, with the reason. False: somebody else has ended it."""
    return _end(session, *_held(begun), failure=code)


def _end(session: Session, *where: ColumnElement[bool], failure: str | None = None) -> bool:
    ended = session.execute(
        update(RerunRow)
        .where(RerunRow.done_at.is_(None), *where)
        .values(done_at=func.now(), failure=failure)
        .returning(RerunRow.id)
        .execution_options(synchronize_session=False)
    )
    return bool(ended.all())


def hand_rerun_back(session: Session, begun: Begun) -> None:
    """Something of ours was unavailable: the sweeper rings for it after a while, and this taking does not count."""
    session.execute(
        update(RerunRow)
        .where(*_held(begun))
        .values(begun_at=None, attempts=RerunRow.attempts - 1, rung_at=func.now())
        .execution_options(synchronize_session=False)
    )


#: Those tried too often, and those that waited too long for a worker, each by its parts of one index and a page at a
#: time. Of the others only those are read that wait longer than that for a worker that is there.
GIVE_UP = text("""
    WITH spent AS (
        SELECT id FROM reruns
        WHERE done_at IS NULL AND attempts >= :attempts
          AND (begun_at IS NULL OR begun_at < now() - make_interval(secs => :stale))
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ), forgotten AS (
        SELECT id FROM reruns
        WHERE done_at IS NULL AND attempts = ANY(:tried) AND created_at < now() - make_interval(days => :days)
          AND (begun_at IS NULL OR begun_at < now() - make_interval(secs => :stale))
          AND fingerprint <> ALL(CAST(:held AS text[]))
        LIMIT :limit FOR UPDATE SKIP LOCKED
    ), over AS (
        SELECT id, 'attempts_exhausted' AS code FROM spent UNION ALL SELECT id, 'no_worker' FROM forgotten
    )
    UPDATE reruns SET done_at = now(), failure = over.code FROM over WHERE reruns.id = over.id RETURNING reruns.id
""")


def give_up_reruns(
    session: Session,
    held: Collection[str],
    *,
    attempts_at_most: int,
    stale_after: float,
    limit: int = 10_000,
) -> int:
    """End those that were taken as often as we try, and old ones by a pipeline that is not `held`; return how many."""
    values = {
        "attempts": attempts_at_most,
        "tried": list(range(attempts_at_most)),
        "held": list(held),
        "stale": stale_after,
        "days": WAITS_DAYS,
        "limit": limit,
    }
    return len(session.execute(GIVE_UP, values).all())


# --- ringing


#: From every pipeline its oldest, and of these the oldest: in one look over all pipelines their whole lines would be
#: sorted to find a page.
OLDEST_TO_RING = text("""
    WITH next AS (
        SELECT silent.id FROM unnest(CAST(:fingerprints AS text[])) AS held, LATERAL (
            SELECT r.id FROM reruns r
            WHERE r.done_at IS NULL AND r.fingerprint = held AND r.attempts < :attempts
              AND (r.rung_at IS NULL OR r.rung_at < now() - make_interval(secs => CAST(:again AS double precision)))
              AND (r.begun_at IS NULL OR r.begun_at < now() - make_interval(secs => :stale))
            ORDER BY r.id LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS silent ORDER BY silent.id LIMIT :limit
    )
    UPDATE reruns SET rung_at = now() FROM next WHERE reruns.id = next.id RETURNING reruns.id
""")


def reruns_to_ring(
    session: Session,
    fingerprints: Collection[str],
    *,
    limit: int,
    attempts_at_most: int,
    ring_again_seconds: float | None,
    stale_after: float,
) -> list[UUID]:
    """Reruns by these pipelines that nobody is at and whose bell was never rung, marked as rung now, oldest first.

    Not those that are to be given up. With `ring_again_seconds`, also those whose bell is older than that.
    """
    values = {
        "fingerprints": list(fingerprints),
        "limit": limit,
        "attempts": attempts_at_most,
        "again": ring_again_seconds,
        "stale": stale_after,
    }
    return sorted(session.scalars(OLDEST_TO_RING, values))


def mark_reruns_unrung(session: Session, rerun_ids: Sequence[UUID]) -> None:
    """Their bells did not reach the queue: the sweeper rings at its next look."""
    session.execute(
        update(RerunRow)
        .where(RerunRow.id.in_(rerun_ids), RerunRow.done_at.is_(None))
        .values(rung_at=None)
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True)
class Backlog:
    """Reruns by one pipeline that are not done."""

    fingerprint: str
    shadow: int
    anew: int


def rerun_backlog(session: Session) -> list[Backlog]:
    """What waits, or is being analysed. Costs what waits, and not what is done."""
    rows = session.execute(
        select(
            RerunRow.fingerprint,
            func.count().filter(RerunRow.shadow),
            func.count().filter(~RerunRow.shadow),
        )
        .where(RerunRow.done_at.is_(None))
        .group_by(RerunRow.fingerprint)
        .order_by(RerunRow.fingerprint)
    )
    return [Backlog(*row) for row in rows]


def _held(begun: Begun) -> tuple[ColumnElement[bool], ...]:
    """The fence: this rerun, under this very taking, and not ended."""
    return RerunRow.id == begun.id, RerunRow.attempts == begun.attempt, RerunRow.done_at.is_(None)


def _free(stale_after: float) -> ColumnElement[bool]:
    """Nobody is at it, or nobody has been heard of for that long."""
    return or_(RerunRow.begun_at.is_(None), RerunRow.begun_at < func.now() - seconds(stale_after))
