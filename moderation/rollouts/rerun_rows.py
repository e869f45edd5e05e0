"""Reruns: further analyses of a case, in the shadow to compare two bundles, or anew to replace the one on show.

A rerun is leased work, like a question: see `moderation.database.work`.
It changes the case only when it succeeds and was asked for anew: then the new analysis is shown.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, case, exists, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.analysis import Analysis, Label, Verdict
from moderation.cases import CaseState, ImageRef, Move
from moderation.database.analyses import StoredAnalysis, analysis_by, insert_analysis
from moderation.database.ids import first_id_at, new_id
from moderation.database.moves import move_cases, pinned
from moderation.database.outbox import Kind, enqueue
from moderation.database.queue import unclaimed
from moderation.database.review import lock_case
from moderation.database.shapes import as_value, change_rows, equal_to, seconds
from moderation.database.tables import AnalysisRow, CaseRow, RerunRow
from moderation.database.work import ATTEMPTS_AT_MOST, RERUNS
from moderation.errors import ImageChanged
from moderation.presentation import verdict_from_json
from moderation.triage import head_start, uncertainty

#: States in which a case has its own analysis, or a refusal.
LOOKED_AT = (CaseState.READY, CaseState.DECIDED)
#: The requester of shadows that a rollout adds.
ROLLOUT = "rollout"
#: Failures of a rerun whose case is gone. Other failures are codes of refused images and of the worker.
ERASED, ARCHIVED, WITHDRAWN = "erased", "archived", "withdrawn"
#: Days after which a rerun is given up if no live worker could take it.
WAITS_DAYS = 7
#: Reruns given up in one transaction, for each of the two reasons.
GIVEN_UP_AT_ONCE = 10_000


@dataclass(frozen=True)
class RerunFilter:
    """Which cases to analyse again. None: all."""

    states: Sequence[CaseState] = LOOKED_AT
    source: str | None = None
    #: Label of the verdict on show.
    label: Label | None = None
    #: Accepted from this time on, and before that time.
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class HeldRerun:
    """A rerun that a worker has taken."""

    id: UUID
    case_id: UUID
    fingerprint: str
    image: ImageRef
    #: How often it was taken, from 1. The analysis is written under this number.
    attempt: int
    #: Digest of the bytes that the shown analysis was made of, in hexadecimal. None: there is no analysis.
    sha256: str | None


# --- asking


def insert_shadow(session: Session, case_id: UUID, fingerprint: str) -> None:
    """Ask once for an analysis that is not shown. The sweeper publishes it."""
    session.execute(
        upsert(RerunRow)
        .values(id=new_id(), case_id=case_id, fingerprint=fingerprint, shadow=True, asked_by=ROLLOUT)
        .on_conflict_do_nothing(constraint="reruns_once")
    )


def cases_to_rerun(
    session: Session, fingerprint: str, wanted: RerunFilter, *, shadow: bool, after: UUID | None, limit: int
) -> Sequence[UUID]:
    """A page of cases that this pipeline could analyse again, in the order of their ids after `after`.

    Erased and archived cases are left out, and cases that it has already analysed or whose shown analysis is its own.
    """
    session.execute(text("SET LOCAL statement_timeout = 0"))  # a search for rare cases takes long
    done = exists().where(AnalysisRow.case_id == CaseRow.id, AnalysisRow.fingerprint == fingerprint)
    if not shadow:
        done = done.where(AnalysisRow.id == CaseRow.analysis_id)
    # The states as text, not as parameters, so that the planner can use a small index.
    states = ", ".join(f"'{state.value}'" for state in wanted.states)
    where: list[Any] = [
        text(f"cases.state IN ({states})"),
        CaseRow.erased_at.is_(None),
        CaseRow.archive_id.is_(None),
        ~done,
        *equal_to({CaseRow.source: wanted.source, CaseRow.label: wanted.label}),
    ]
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
    """Ask for these reruns; return how many are new. A finished rerun starts again, a waiting one keeps its place.

    A waiting shadow becomes a rerun to be shown, if that is asked for. Cases that are archived now are left out.
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
    """The cases, of these, that are not archived. They cannot be archived before the transaction ends."""
    # An archiver locks its cases FOR UPDATE. This lock and the archiver's wait for each other, and stop nobody else.
    return session.scalars(
        select(CaseRow.id)
        .where(CaseRow.id.in_(case_ids), CaseRow.archive_id.is_(None))
        .order_by(CaseRow.id)
        .with_for_update(read=True, key_share=True)
    ).all()


# --- taking


def rerun_is_suspect(
    session: Session, rerun_id: UUID, fingerprints: Collection[str], *, stale_after: float
) -> bool:
    """Whether the rerun is free, and it or its picture may have ended a worker before."""
    where = (RerunRow.id == rerun_id, RERUNS.free(stale_after), RerunRow.fingerprint.in_(fingerprints))
    return bool(session.scalar(select(exists().where(*where, ~_unsuspected()))))


def _unsuspected() -> ColumnElement[bool]:
    unharmed = exists().where(CaseRow.id == RerunRow.case_id, CaseRow.expired_leases == 0)
    return (RerunRow.attempts == 0) & unharmed


def begin_rerun(
    session: Session,
    rerun_id: UUID,
    fingerprints: Collection[str],
    *,
    actor: str,
    stale_after: float,
    quarantined: bool,
) -> HeldRerun | None:
    """Take a rerun for one of these pipelines. None: there is nothing for a model to do.

    Then it is suspect and this is no quarantine; it is done, or another worker took it less than `stale_after` seconds
    ago; the case waits for its own analysis; or the rerun ends here, because the case was erased or archived, or this
    pipeline has already analysed it. Without an analysis on show, that one may be of another picture, so the picture is
    read first.
    """
    looked_at = exists().where(
        CaseRow.id == RerunRow.case_id, CaseRow.state.in_((*LOOKED_AT, CaseState.WITHDRAWN))
    )
    fit = () if quarantined else (_unsuspected(),)
    by_one_of_these = RerunRow.fingerprint.in_(fingerprints)
    taken = RERUNS.take(session, rerun_id, looked_at, by_one_of_these, *fit, stale_after=stale_after)
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
    held = as_value(HeldRerun, taken, image=as_value(ImageRef, row), attempt=taken.attempts, sha256=sha256)
    if row.erased_at is not None or row.archive_id is not None:
        fail_rerun(session, held, ERASED if row.erased_at is not None else ARCHIVED)
        return None
    if row.state == CaseState.WITHDRAWN:
        fail_rerun(session, held, WITHDRAWN)
        return None
    made = analysis_by(session, held.case_id, held.fingerprint)
    if made is not None and held.sha256 is not None:
        record_rerun(session, held, made.analysis, actor=actor, new_id=made.id)
        return None
    return held


# --- ending


def record_rerun(
    session: Session,
    held: HeldRerun,
    analysis: Analysis,
    *,
    actor: str,
    new_id: UUID,
    version_id: str | None = None,
    conflicts: Callable[[Verdict], bool] = lambda _: False,
) -> bool:
    """Store the analysis, and show it if it was asked for anew. False: another worker has ended this rerun.

    `version_id` is the version of the fetched image. The case is pinned to it, also by a shadow: otherwise its analysis
    could later appear beside another picture. An analysis of another picture is thrown away. `conflicts` says whether
    what the picture is declared to be contradicts a verdict: see `triage.head_start`.
    The rerun is always locked before its case. An erased case gets no analysis.
    """
    asked = session.execute(
        select(RerunRow.shadow, RerunRow.asked_by)
        .where(*RERUNS.held(held.id, held.attempt))
        .with_for_update()
    ).first()
    if asked is None:
        return False
    case_row = lock_case(session, held.case_id)
    if case_row.erased_at is not None:
        return fail_rerun(session, held, ERASED)
    if case_row.state == CaseState.WITHDRAWN:
        return fail_rerun(session, held, WITHDRAWN)
    before = None if case_row.analysis_id is None else session.get(AnalysisRow, case_row.analysis_id)
    if _is_of_another(case_row, before, analysis, version_id):
        return fail_rerun(session, held, ImageChanged.code)
    try:
        made = insert_analysis(session, held.case_id, analysis, new_id=new_id)
    except ImageChanged as error:
        return fail_rerun(session, held, error.code)
    _pin(session, case_row, version_id)
    if not asked.shadow and case_row.state in LOOKED_AT and case_row.analysis_id != made.id:
        _show(session, case_row, before, made, conflicts, actor=actor, asked_by=asked.asked_by)
    return RERUNS.finish(session, held.id, held.attempt)


def _is_of_another(
    case_row: CaseRow, before: AnalysisRow | None, analysis: Analysis, version_id: str | None
) -> bool:
    """Whether the analysis is of other bytes than the one on show, or of another version than the case now names."""
    if before is not None and before.image_sha256.hex() != analysis.picture.sha256:
        return True
    return case_row.version_id is not None and version_id not in (None, case_row.version_id)


def _pin(session: Session, case_row: CaseRow, version_id: str | None) -> None:
    """Pin the case to the version that was read, unless a worker analyses it: it may have read another version."""
    if case_row.state == CaseState.ANALYZING or case_row.version_id is not None or version_id is None:
        return
    change_rows(session, CaseRow, CaseRow.id == case_row.id, **pinned(version_id))


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
    """Show this analysis instead of the old one. The state and the decisions stay."""
    verdict = made.analysis.verdict
    was = _doubt(None if before is None else verdict_from_json(before.verdict), conflicts)
    # Its age and its stage's worth stay. Nobody has claimed it, or it would move while they work.
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
    """The seconds of `triage.head_start` that the verdict adds."""
    return head_start(0, uncertainty(verdict), conflict=verdict is not None and conflicts(verdict))


def fail_rerun(session: Session, held: HeldRerun, code: str) -> bool:
    """End the rerun with a reason. False: somebody else has ended it."""
    return RERUNS.finish(session, held.id, held.attempt, failure=code)


def release_rerun(session: Session, held: HeldRerun) -> None:
    """Release the rerun because something of ours was unavailable. The attempt does not count."""
    RERUNS.release(session, held.id, held.attempt)


def forgotten(held: Collection[str], *, limit: int, stale_after: float) -> Select[UUID]:
    """A page of reruns that wait too long, for pipelines that no live worker holds."""
    # Each number of attempts is one part of the index.
    by_index = RerunRow.attempts.in_(range(ATTEMPTS_AT_MOST)) & (
        RerunRow.created_at < func.now() - timedelta(days=WAITS_DAYS)
    )
    return RERUNS.page(by_index, RerunRow.fingerprint.not_in(held), limit=limit, stale_after=stale_after)


def give_up_page(session: Session, held: Collection[str], *, stale_after: float) -> int:
    """End reruns that were taken too often, and old ones whose pipeline is not `held`; return how many."""
    spent = RERUNS.spent(limit=GIVEN_UP_AT_ONCE, stale_after=stale_after)
    unheld = forgotten(held, limit=GIVEN_UP_AT_ONCE, stale_after=stale_after)
    ended = RERUNS.give_up(session, spent, failure="attempts_exhausted")
    return ended + RERUNS.give_up(session, unheld, failure="no_worker")


# --- publishing


def due_of(fingerprint: str, *, limit: int, again_after: float | None, stale_after: float) -> Select[UUID]:
    """The oldest reruns of one pipeline to publish. A query over all pipelines would sort their whole lines."""
    due = RERUNS.due(
        RerunRow.fingerprint == fingerprint, limit=limit, again_after=again_after, stale_after=stale_after
    )
    return due.order_by(RerunRow.id)


@dataclass(frozen=True)
class RerunBacklog:
    """The open reruns of one pipeline."""

    fingerprint: str
    shadow: int
    anew: int


def rerun_backlog(session: Session) -> list[RerunBacklog]:
    """The open reruns by pipeline. The cost grows with open reruns, not with finished ones."""
    rows = session.execute(
        select(
            RerunRow.fingerprint, func.count().filter(RerunRow.shadow), func.count().filter(~RerunRow.shadow)
        )
        .where(RerunRow.done_at.is_(None))
        .group_by(RerunRow.fingerprint)
        .order_by(RerunRow.fingerprint)
    )
    return [RerunBacklog(*row) for row in rows]
