"""What reviewers do, as statements: claims, judgements, decisions, appeals, skips and views.

A claim is for a reviewer what a lease is for a worker: an exclusive hold with an end, fenced by its token. It is no
move: it leaves the case as it was. `moves.py` makes the moves.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, exists, func, insert, literal, or_, select, true, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Move, Stage
from moderation.database.cases import of_standing_decision
from moderation.database.ids import new_id
from moderation.database.moves import head_start_of, move_cases
from moderation.database.queue import QueueFilter, fits, unclaimed
from moderation.database.shapes import as_value, change_rows, delete_rows, seconds
from moderation.database.tables import (
    LEASE_TOKENS,
    AnalysisRow,
    AppealRow,
    ArtifactAnswerRow,
    ArtifactRow,
    BlindJudgementRow,
    CaseRow,
    ClaimRow,
    DecisionRow,
    EventRow,
    PersonRow,
    SkipRow,
    ViewRow,
)
from moderation.decisions import BLIND_STAGES, Appeal, ArtifactAnswer, Decision, Judgement, Outcome
from moderation.errors import CaseNotFound
from moderation.triage import STAGE_AGE_SECONDS


@dataclass(frozen=True)
class Claim:
    """A reviewer's exclusive hold on a case until `expires_at` by the database's clock."""

    case_id: UUID
    person_id: UUID
    token: int
    claimed_at: datetime
    expires_at: datetime
    #: The case's version when it was claimed. None: it was not read.
    version: int | None = None


@dataclass(frozen=True)
class Holder:
    """The person who has claimed a case."""

    person_id: UUID
    name: str
    expires_at: datetime


def lock_case(session: Session, case_id: UUID) -> CaseRow:
    """The case, locked until the transaction ends, so that what we check stays true. Raise CaseNotFound.

    The lock does not stop rows that only refer to the case. Otherwise a skip, which is written while its claim is
    deleted, would wait for a transaction that waits for that claim.
    """
    case_row = session.get(CaseRow, case_id, with_for_update={"key_share": True}, populate_existing=True)
    if case_row is None:
        raise CaseNotFound(f"no case has the id {case_id}")
    return case_row


def put_claim(session: Session, case_row: CaseRow, person_id: UUID, *, claim_seconds: float) -> Claim | None:
    """Claim the case for this person, or renew their claim. None while somebody else has it.

    The caller has locked the case. A person who claims twice, for example in a second window, keeps their token.
    """
    still_theirs = (ClaimRow.person_id == person_id) & (ClaimRow.expires_at > func.now())
    statement = upsert(ClaimRow).values(
        case_id=case_row.id,
        person_id=person_id,
        token=LEASE_TOKENS.next_value(),
        expires_at=func.now() + seconds(claim_seconds),
    )
    taken = statement.on_conflict_do_update(
        index_elements=[ClaimRow.case_id],
        set_={
            "person_id": person_id,
            "token": case((still_theirs, ClaimRow.token), else_=statement.excluded.token),
            "claimed_at": case((still_theirs, ClaimRow.claimed_at), else_=func.now()),
            "expires_at": statement.excluded.expires_at,
        },
        where=or_(ClaimRow.person_id == person_id, ClaimRow.expires_at <= func.now()),
    ).returning(ClaimRow.token, ClaimRow.claimed_at, ClaimRow.expires_at)
    row = session.execute(taken).first()
    return None if row is None else Claim(case_row.id, person_id, *row, version=case_row.version)


def lock_next_case(
    session: Session, wanted: QueueFilter, person_id: UUID, *, escalated: bool, blind_share: float = 0.0
) -> CaseRow | None:
    """The first case that this person may take, locked. Cases that others are taking now are left out.

    Cases that this person decided or skipped are left out. A filter by the verdict also leaves out the cases of
    `blind_share` that they must judge first: a match would tell them the verdict.
    """
    conditions = [*fits(wanted), unclaimed(), ~_decided_by(person_id), ~_skipped_by(person_id)]
    if not escalated:
        conditions.append(CaseRow.stage != Stage.ESCALATED)
    if wanted.label is not None or wanted.technique is not None:
        conditions.append(~verdict_is_hidden_from(person_id, blind_share))
    return session.scalars(
        select(CaseRow)
        .where(*conditions)
        .order_by(CaseRow.queued_at, CaseRow.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True, of=CaseRow)
        .execution_options(populate_existing=True)
    ).first()


def _decided_by(person_id: UUID) -> ColumnElement[bool]:
    return exists().where(
        DecisionRow.case_id == CaseRow.id, DecisionRow.person_id == person_id, DecisionRow.undone_at.is_(None)
    )


def verdict_is_hidden_from(person_id: UUID, share: float) -> ColumnElement[bool]:
    """`decisions.verdict_is_hidden` for Postgres."""
    judged = exists().where(BlindJudgementRow.case_id == CaseRow.id, BlindJudgementRow.person_id == person_id)
    return and_(
        CaseRow.label.is_not(None),
        ~judged,
        CaseRow.state.not_in((CaseState.DECIDED, CaseState.WITHDRAWN)),
        CaseRow.stage.in_(BLIND_STAGES),
        in_blind_share(CaseRow.id, share),
    )


def in_blind_share(
    case_id: ColumnElement[UUID] | InstrumentedAttribute[UUID], share: float
) -> ColumnElement[bool]:
    """`decisions.is_blind_first` for Postgres."""
    if share >= 1:
        return true()
    digest = func.sha256(func.convert_to(func.concat("blind:", case_id), "UTF8"))
    return func.substring(digest, 1, 8) < math.ceil(share * 2**64).to_bytes(8)


def _skipped_by(person_id: UUID) -> ColumnElement[bool]:
    return exists().where(SkipRow.case_id == CaseRow.id, SkipRow.person_id == person_id)


def renew_claim(
    session: Session, case_id: UUID, person_id: UUID, token: int, *, claim_seconds: float
) -> Claim | None:
    """Extend the claim. None: somebody else took the case, or it was decided."""
    row = session.execute(
        update(ClaimRow)
        .where(ClaimRow.case_id == case_id, ClaimRow.person_id == person_id, ClaimRow.token == token)
        .values(expires_at=func.now() + seconds(claim_seconds))
        .returning(ClaimRow.claimed_at, ClaimRow.expires_at)
        .execution_options(synchronize_session=False)
    ).first()
    return None if row is None else Claim(case_id, person_id, token, row.claimed_at, row.expires_at)


def end_claim(session: Session, case_id: UUID, person_id: UUID, token: int) -> bool:
    """Release the case to the queue. False: the person no longer held it."""
    held = (ClaimRow.case_id == case_id, ClaimRow.person_id == person_id, ClaimRow.token == token)
    return delete_rows(session, ClaimRow, *held) > 0


def drop_claims(session: Session, case_id: UUID) -> None:
    """Delete all claims on the case, because it moved on."""
    delete_rows(session, ClaimRow, ClaimRow.case_id == case_id)


def find_claim(session: Session, case_id: UUID) -> Claim | None:
    """The case's claim, even after its end if nobody took it over."""
    row = session.get(ClaimRow, case_id, populate_existing=True)
    return None if row is None else as_value(Claim, row, version=None)


def find_holder(session: Session, case_id: UUID) -> Holder | None:
    """The person who has claimed the case now."""
    row = session.execute(
        select(ClaimRow.person_id, PersonRow.name, ClaimRow.expires_at)
        .join(PersonRow, PersonRow.id == ClaimRow.person_id)
        .where(ClaimRow.case_id == case_id, ClaimRow.expires_at > func.now())
    ).first()
    return None if row is None else Holder(*row)


def insert_skip(session: Session, case_id: UUID, person_id: UUID, reason: str) -> None:
    session.execute(insert(SkipRow).values(id=new_id(), case_id=case_id, person_id=person_id, reason=reason))


def insert_view(session: Session, case_id: UUID, person_id: UUID, kind: str) -> None:
    """Note that a person saw the picture or a part of it: `shown`, `revealed`, `artifact`."""
    session.execute(insert(ViewRow).values(case_id=case_id, person_id=person_id, kind=kind))


def insert_sending(session: Session, case_id: UUID, person_id: UUID, *, kind: str = "sent") -> None:
    """Note that the picture went to a person's browser, blurred or not. All loads within a minute are one view.

    `kind` is `sent`, or `thumbnail` for a thumbnail.
    """
    lately = exists().where(
        ViewRow.case_id == case_id,
        ViewRow.person_id == person_id,
        ViewRow.kind == kind,
        ViewRow.at > func.now() - seconds(60),
    )
    noted = select(literal(case_id), literal(person_id), literal(kind)).where(~lately)
    session.execute(insert(ViewRow).from_select(["case_id", "person_id", "kind"], noted))


@dataclass(frozen=True)
class BlindJudgement:
    """What a reviewer said of a case before they saw its verdict."""

    outcome: Outcome
    technique: Technique | None
    at: datetime


def insert_blind_judgement(
    session: Session, case_id: UUID, person_id: UUID, outcome: Outcome, technique: Technique | None
) -> None:
    """Store the judgement. The first one stands: a second one changes nothing."""
    session.execute(
        upsert(BlindJudgementRow)
        .values(case_id=case_id, person_id=person_id, outcome=outcome, technique=technique)
        .on_conflict_do_nothing()
    )


def find_blind_judgement(session: Session, case_id: UUID, person_id: UUID) -> BlindJudgement | None:
    row = session.get(BlindJudgementRow, (case_id, person_id), populate_existing=True)
    return None if row is None else as_value(BlindJudgement, row)


@dataclass(frozen=True)
class ShownAnalysis:
    """What a decision is about: the analysis on show, its label, and the artifacts that a reviewer can answer."""

    analysis_id: UUID
    label: Label
    artifacts: frozenset[tuple[int, int]]  # face, ordinal


def find_shown(session: Session, case_id: UUID) -> ShownAnalysis | None:
    """None when the case has no analysis."""
    row = session.execute(
        select(AnalysisRow.id, AnalysisRow.label)
        .join(CaseRow, CaseRow.analysis_id == AnalysisRow.id)
        .where(CaseRow.id == case_id)
    ).first()
    if row is None:
        return None
    artifacts = session.execute(
        select(ArtifactRow.face, ArtifactRow.ordinal).where(ArtifactRow.analysis_id == row.id)
    )
    return ShownAnalysis(row.id, Label(row.label), frozenset((face, ordinal) for face, ordinal in artifacts))


def insert_decision(
    session: Session,
    case_row: CaseRow,
    judgement: Judgement,
    *,
    person_id: UUID,
    shown: ShownAnalysis | None,
    blind: BlindJudgement | None,
    claimed_at: datetime | None,
    supersedes: UUID | None,
    undo_seconds: float,
) -> UUID:
    """Add the decision and its answers; return its id."""
    decision_id = new_id()
    worked = None if claimed_at is None else func.extract("epoch", func.now() - claimed_at)
    session.execute(
        insert(DecisionRow).values(
            id=decision_id,
            case_id=case_row.id,
            stage=case_row.stage,
            outcome=judgement.outcome,
            technique=judgement.technique,
            reason=judgement.reason,
            policy=judgement.policy,
            person_id=person_id,
            analysis_id=shown and shown.analysis_id,
            verdict=shown and shown.label,
            blind_outcome=blind and blind.outcome,
            blind_technique=blind and blind.technique,
            saw_verdict_first=shown is not None and blind is None,
            seconds=worked,
            final_at=func.now() + seconds(undo_seconds),
            supersedes=supersedes,
        )
    )
    if judgement.feedback and shown is not None:
        session.execute(
            insert(ArtifactAnswerRow),
            [
                {
                    "decision_id": decision_id,
                    "analysis_id": shown.analysis_id,
                    "face": said.face,
                    "ordinal": said.ordinal,
                    "answer": said.answer.value,
                }
                for said in judgement.feedback
            ],
        )
    return decision_id


def move_decided(
    session: Session,
    move: Move,
    case_row: CaseRow,
    stage: Stage,
    *,
    token: int | None,
    actor: str,
    body: dict[str, Any],
) -> bool:
    """Make the move of a decision. False: the case or the claim has changed since it was shown.

    Without a token, for decisions in bulk, nobody may have claimed the case.
    """
    held = exists().where(ClaimRow.case_id == CaseRow.id, ClaimRow.token == token)
    fence = unclaimed() if token is None else held
    return _move_reviewed(session, move, case_row, stage, fence, actor=actor, body=body)


def move_back(
    session: Session, move: Move, case_row: CaseRow, stage: Stage, *, actor: str, body: dict[str, Any]
) -> bool:
    """Make the move of an undo: the case is ready for the same review, at the same place in the queue."""
    return _move_reviewed(session, move, case_row, stage, actor=actor, body=body)


def _move_reviewed(
    session: Session,
    move: Move,
    case_row: CaseRow,
    stage: Stage,
    *fence: ColumnElement[bool],
    actor: str,
    body: dict[str, Any],
) -> bool:
    changes: dict[str, Any] = {"stage": stage.value, "decided_at": func.now()}
    if move is not Move.DECIDE:
        # It keeps its age and gains the worth of its new stage.
        gained = STAGE_AGE_SECONDS[stage] - STAGE_AGE_SECONDS[Stage(case_row.stage)]
        changes |= {"decided_at": None, "queued_at": CaseRow.queued_at - seconds(gained)}
    unchanged = (CaseRow.id == case_row.id, CaseRow.version == case_row.version)
    return bool(move_cases(session, move, *unchanged, *fence, actor=actor, body=body, changes=changes))


def mark_undone(session: Session, decision_id: UUID) -> bool:
    """Mark the decision as undone. False: it is too late, or it was undone before.

    The clock counts, not the start of the transaction, which may have waited long for the case.
    """
    undone = change_rows(
        session,
        DecisionRow,
        DecisionRow.id == decision_id,
        DecisionRow.undone_at.is_(None),
        DecisionRow.final_at > func.clock_timestamp(),
        undone_at=func.now(),
    )
    return undone > 0


def last_event(session: Session, case_id: UUID) -> EventRow | None:
    """The last move that changed the case's state or stage. A new analysis on show does not count."""
    return session.scalars(
        select(EventRow)
        .where(EventRow.case_id == case_id, EventRow.kind != Move.REANALYZE.value)
        .order_by(EventRow.seq.desc())
        .limit(1)
    ).first()


def moves_since(session: Session, case_id: UUID, version: int) -> list[tuple[str, str, datetime]]:
    """The moves since the case had this version, oldest first: kind, actor, time. Each version has one event."""
    rows = session.execute(
        select(EventRow.kind, EventRow.actor, EventRow.at)
        .where(EventRow.case_id == case_id, EventRow.seq > version)
        .order_by(EventRow.seq)
    )
    return [(kind, actor, at) for kind, actor, at in rows]


def insert_appeal(
    session: Session,
    case_row: CaseRow,
    decision_id: UUID,
    *,
    reason: str,
    appellant: str,
    external_id: str | None,
) -> UUID | None:
    """Add the appeal and make its move. None: the case is no longer decided."""
    appeal_id = new_id()
    session.execute(
        insert(AppealRow).values(
            id=appeal_id,
            case_id=case_row.id,
            decision_id=decision_id,
            reason=reason,
            appellant=appellant,
            external_id=external_id,
        )
    )
    moved = move_cases(
        session,
        Move.APPEAL,
        CaseRow.id == case_row.id,
        CaseRow.version == case_row.version,
        actor=appellant,
        body={"appeal": str(appeal_id), "decision": str(decision_id)},
        changes={
            "stage": Stage.APPEAL.value,
            "decided_at": None,
            "ready_at": func.now(),
            "queued_at": func.now() - seconds(head_start_of(0, Stage.APPEAL)),
        },
    )
    return appeal_id if moved else None


def resolve_appeals(session: Session, case_id: UUID, decision_id: UUID) -> None:
    """Note that this decision answers the open appeals."""
    open_ones = (AppealRow.case_id == case_id, AppealRow.resolved_by.is_(None))
    change_rows(session, AppealRow, *open_ones, resolved_by=decision_id)


def reopen_appeals(session: Session, decision_id: UUID) -> None:
    """Reopen the appeals that this decision answered: it was undone."""
    change_rows(session, AppealRow, AppealRow.resolved_by == decision_id, resolved_by=None)


def find_decision(session: Session, decision_id: UUID) -> Decision | None:
    found = _decisions(session, DecisionRow.id == decision_id)
    return found[0] if found else None


def decisions_of(session: Session, case_id: UUID) -> list[Decision]:
    """All decisions about a case, oldest first, with those that were undone."""
    return _decisions(session, DecisionRow.case_id == case_id)


def standing_decisions(session: Session, case_ids: Sequence[UUID]) -> dict[UUID, Decision]:
    """For each of these cases that is decided, its latest decision that was not undone."""
    ids = select(of_standing_decision("id")).where(
        CaseRow.id.in_(case_ids), CaseRow.state == CaseState.DECIDED
    )
    return {decision.case_id: decision for decision in _decisions(session, DecisionRow.id.in_(ids))}


def _decisions(session: Session, *where: ColumnElement[bool]) -> list[Decision]:
    rows = session.execute(
        select(DecisionRow, PersonRow.name)
        .join(PersonRow, PersonRow.id == DecisionRow.person_id)
        .where(*where)
        .order_by(DecisionRow.created_at, DecisionRow.id)
        .execution_options(populate_existing=True)
    ).all()
    answers: dict[UUID, list[ArtifactAnswer]] = {}
    said = session.scalars(
        select(ArtifactAnswerRow)
        .where(ArtifactAnswerRow.decision_id.in_([row.id for row, _ in rows]))
        .order_by(ArtifactAnswerRow.face, ArtifactAnswerRow.ordinal)
    )
    for row in said:
        answers.setdefault(row.decision_id, []).append(as_value(ArtifactAnswer, row))
    return [
        as_value(Decision, row, reviewer_id=row.person_id, reviewer=name, feedback=answers.get(row.id, ()))
        for row, name in rows
    ]


def appealed_decisions(session: Session, appeals: Iterable[Appeal]) -> dict[UUID, Decision]:
    """For the case of each of these appeals, the decision that it is against."""
    against = [appeal.decision_id for appeal in appeals]
    found = _decisions(session, DecisionRow.id.in_(against)) if against else []
    return {decision.case_id: decision for decision in found}


def appeals_of(session: Session, case_id: UUID) -> list[Appeal]:
    """All appeals of a case, oldest first."""
    return _appeals(session, AppealRow.case_id == case_id)


def last_appeals(session: Session, case_ids: Sequence[UUID]) -> dict[UUID, Appeal]:
    """The last appeal of each of these cases that had one."""
    return {appeal.case_id: appeal for appeal in _appeals(session, AppealRow.case_id.in_(case_ids))}


def _appeals(session: Session, where: ColumnElement[bool]) -> list[Appeal]:
    rows = session.scalars(
        select(AppealRow)
        .where(where)
        .order_by(AppealRow.created_at, AppealRow.id)
        .execution_options(populate_existing=True)
    )
    return [as_value(Appeal, row) for row in rows]


def same_picture(session: Session, case_id: UUID, *, at_most: int = 20) -> list[UUID]:
    """Other cases with exactly the same bytes, the newest first. Similar pictures do not count."""
    analysis, other = aliased(AnalysisRow), aliased(AnalysisRow)
    same = (
        select(other.case_id)
        .join(analysis, analysis.image_sha256 == other.image_sha256)
        .where(analysis.case_id == case_id, other.case_id != case_id)
        .distinct()
    )
    return list(session.scalars(same.order_by(other.case_id.desc()).limit(at_most)))
