"""What reviewers do, as statements: claims, judgements, decisions, appeals, skips and views.

A claim is to a reviewer what a lease is to a worker: an exclusive hold with an end, fenced by its token. It is no move:
a case that is claimed is as it was. The moves themselves are those of `moves.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Move, Stage
from moderation.database.ids import new_id
from moderation.database.moves import head_start_of, move_cases, seconds
from moderation.database.queue import QueueFilter, fits, unclaimed
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
from moderation.decisions import BLIND_STAGES, Answer, Appeal, ArtifactAnswer, Decision, Judgement, Outcome
from moderation.triage import STAGE_SECONDS


@dataclass(frozen=True)
class Claim:
    """A reviewer's exclusive hold on a case until `expires_at` by the database's clock."""

    case_id: UUID
    person_id: UUID
    token: int
    claimed_at: datetime
    expires_at: datetime
    #: Of the case at the time of claiming. None where it was not read.
    version: int | None = None


@dataclass(frozen=True)
class Holder:
    """Who has a case in front of them."""

    person_id: UUID
    name: str
    expires_at: datetime


def lock_case(session: Session, case_id: UUID) -> CaseRow | None:
    """The case as it is, locked until the transaction ends: what is checked of it stays true. None: there is none.

    Not against rows that merely refer to it: a skip, written while its claim is deleted, would wait for whoever waits
    for that claim.
    """
    return session.get(CaseRow, case_id, with_for_update={"key_share": True}, populate_existing=True)


def put_claim(session: Session, case_row: CaseRow, person_id: UUID, *, claim_seconds: float) -> Claim | None:
    """Claim the case for this person, or renew their claim. None while somebody else has it.

    The caller has locked the case. Whoever claims twice, in a second window say, keeps the token they had.
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
    """The first case that this person may take, locked. Cases that others are taking right now are passed over.

    Not those they decided, for others must review that, nor those they skipped. Under a filter by the verdict not those
    of `blind_share` that they judge first either: that such a case fits would tell them its verdict.
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
        DecisionRow.case_id == CaseRow.id,
        DecisionRow.person_id == person_id,
        DecisionRow.undone_at.is_(None),
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
    """Push the end out. None: somebody else took the case, or it was decided."""
    row = session.execute(
        update(ClaimRow)
        .where(ClaimRow.case_id == case_id, ClaimRow.person_id == person_id, ClaimRow.token == token)
        .values(expires_at=func.now() + seconds(claim_seconds))
        .returning(ClaimRow.claimed_at, ClaimRow.expires_at)
        .execution_options(synchronize_session=False)
    ).first()
    return None if row is None else Claim(case_id, person_id, token, row.claimed_at, row.expires_at)


def end_claim(session: Session, case_id: UUID, person_id: UUID, token: int) -> bool:
    """Give the case back to the queue. False: it was not theirs any more."""
    ended = session.execute(
        delete(ClaimRow)
        .where(ClaimRow.case_id == case_id, ClaimRow.person_id == person_id, ClaimRow.token == token)
        .returning(ClaimRow.case_id)
        .execution_options(synchronize_session=False)
    ).first()
    return ended is not None


def drop_claims(session: Session, case_id: UUID) -> None:
    """The case moved on: nobody has it in front of them any more."""
    session.execute(
        delete(ClaimRow).where(ClaimRow.case_id == case_id).execution_options(synchronize_session=False)
    )


def find_claim(session: Session, case_id: UUID) -> Claim | None:
    """The case's claim, even one that has run out and that nobody took over."""
    row = session.get(ClaimRow, case_id, populate_existing=True)
    return (
        None if row is None else Claim(row.case_id, row.person_id, row.token, row.claimed_at, row.expires_at)
    )


def find_holder(session: Session, case_id: UUID) -> Holder | None:
    """Who has the case in front of them now."""
    row = session.execute(
        select(ClaimRow.person_id, PersonRow.name, ClaimRow.expires_at)
        .join(PersonRow, PersonRow.id == ClaimRow.person_id)
        .where(ClaimRow.case_id == case_id, ClaimRow.expires_at > func.now())
    ).first()
    return None if row is None else Holder(*row)


def insert_skip(session: Session, case_id: UUID, person_id: UUID, reason: str) -> None:
    session.execute(insert(SkipRow).values(id=new_id(), case_id=case_id, person_id=person_id, reason=reason))


def insert_view(session: Session, case_id: UUID, person_id: UUID, kind: str) -> None:
    """Note that somebody saw the picture, or a part of it: `shown`, `revealed`, `artifact`."""
    session.execute(insert(ViewRow).values(case_id=case_id, person_id=person_id, kind=kind))


def insert_sending(session: Session, case_id: UUID, person_id: UUID, *, kind: str = "sent") -> None:
    """Note that the picture went to somebody's browser, blurred or not. A minute of loading it is one view.

    `sent`, or `thumbnail` when it was that.
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
    """What a reviewer said of a case before its verdict was shown to them."""

    outcome: Outcome
    technique: Technique | None
    at: datetime


def insert_blind_judgement(
    session: Session, case_id: UUID, person_id: UUID, outcome: Outcome, technique: Technique | None
) -> None:
    """The first judgement stands: a second one changes nothing."""
    session.execute(
        upsert(BlindJudgementRow)
        .values(case_id=case_id, person_id=person_id, outcome=outcome, technique=technique)
        .on_conflict_do_nothing()
    )


def find_blind_judgement(session: Session, case_id: UUID, person_id: UUID) -> BlindJudgement | None:
    row = session.get(BlindJudgementRow, (case_id, person_id), populate_existing=True)
    if row is None:
        return None
    return BlindJudgement(
        Outcome(row.outcome), None if row.technique is None else Technique(row.technique), row.at
    )


@dataclass(frozen=True)
class Shown:
    """What a decision is about: the analysis on show, what it said, and the artifacts that can be answered."""

    analysis_id: UUID
    label: Label
    artifacts: frozenset[tuple[int, int]]  # face, ordinal


def find_shown(session: Session, case_id: UUID) -> Shown | None:
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
    return Shown(row.id, Label(row.label), frozenset((face, ordinal) for face, ordinal in artifacts))


def insert_decision(
    session: Session,
    case_row: CaseRow,
    judgement: Judgement,
    *,
    person_id: UUID,
    shown: Shown | None,
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
    """Make the move of a decision. False: the case or the claim is not what it was when it was shown.

    Without a token, for decisions in bulk, the case must be in front of nobody.
    """
    held = exists().where(ClaimRow.case_id == CaseRow.id, ClaimRow.token == token)
    fence = unclaimed() if token is None else held
    changes: dict[str, Any] = {"stage": stage.value}
    if move is Move.DECIDE:
        changes["decided_at"] = func.now()
    else:
        # It keeps its age, and gains what its new stage is worth.
        gained = STAGE_SECONDS[stage] - STAGE_SECONDS[Stage(case_row.stage)]
        changes["queued_at"] = CaseRow.queued_at - seconds(gained)
    moved = move_cases(
        session,
        move,
        CaseRow.id == case_row.id,
        CaseRow.version == case_row.version,
        fence,
        actor=actor,
        body=body,
        changes=changes,
    )
    return bool(moved)


def mark_undone(session: Session, decision_id: UUID) -> bool:
    """Take the decision back. False: too late, or it is undone.

    By the clock and not by the transaction's beginning: it may have waited long for the case.
    """
    undone = session.execute(
        update(DecisionRow)
        .where(
            DecisionRow.id == decision_id,
            DecisionRow.undone_at.is_(None),
            DecisionRow.final_at > func.clock_timestamp(),
        )
        .values(undone_at=func.now())
        .returning(DecisionRow.id)
        .execution_options(synchronize_session=False)
    ).first()
    return undone is not None


def move_back(
    session: Session, move: Move, case_row: CaseRow, stage: Stage, *, actor: str, body: Any
) -> bool:
    """The move of an undo: the case is ready for the same review as before, at the same place in the queue."""
    gained = STAGE_SECONDS[Stage(case_row.stage)] - STAGE_SECONDS[stage]
    moved = move_cases(
        session,
        move,
        CaseRow.id == case_row.id,
        CaseRow.version == case_row.version,
        actor=actor,
        body=body,
        changes={
            "stage": stage.value,
            "decided_at": None,
            "queued_at": CaseRow.queued_at + seconds(gained),
        },
    )
    return bool(moved)


def last_event(session: Session, case_id: UUID) -> EventRow | None:
    """The last move that changed where the case stands: not that another analysis of it is shown since."""
    return session.scalars(
        select(EventRow)
        .where(EventRow.case_id == case_id, EventRow.kind != Move.REANALYZE.value)
        .order_by(EventRow.seq.desc())
        .limit(1)
    ).first()


def moves_since(session: Session, case_id: UUID, version: int) -> list[tuple[str, str, datetime]]:
    """The moves since the case had this version, oldest first: kind, who, when. There is an event per version."""
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
    """Add the appeal and make its move; None when the case is not decided any more."""
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
    """The decision answers what was appealed."""
    session.execute(
        update(AppealRow)
        .where(AppealRow.case_id == case_id, AppealRow.resolved_by.is_(None))
        .values(resolved_by=decision_id)
        .execution_options(synchronize_session=False)
    )


def reopen_appeals(session: Session, decision_id: UUID) -> None:
    """The decision that answered them was undone."""
    session.execute(
        update(AppealRow)
        .where(AppealRow.resolved_by == decision_id)
        .values(resolved_by=None)
        .execution_options(synchronize_session=False)
    )


def find_decision(session: Session, decision_id: UUID) -> Decision | None:
    found = _decisions(session, DecisionRow.id == decision_id)
    return found[0] if found else None


def decisions_of(session: Session, case_id: UUID) -> list[Decision]:
    """All decisions about a case, oldest first, those that were undone too."""
    return _decisions(session, DecisionRow.case_id == case_id)


def standing_decisions(session: Session, case_ids: Sequence[UUID]) -> dict[UUID, Decision]:
    """What stands for each of these cases that is decided: its latest decision that was not undone."""
    later = aliased(DecisionRow)
    newest = (
        select(later.id)
        .where(later.case_id == CaseRow.id, later.undone_at.is_(None))
        .order_by(later.created_at.desc(), later.id.desc())
        .limit(1)
        .correlate(CaseRow)
        .scalar_subquery()
    )
    ids = select(newest).where(CaseRow.id.in_(case_ids), CaseRow.state == CaseState.DECIDED)
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
        answers.setdefault(row.decision_id, []).append(
            ArtifactAnswer(row.face, row.ordinal, Answer(row.answer))
        )
    return [_decision(row, name, tuple(answers.get(row.id, ()))) for row, name in rows]


def _decision(row: DecisionRow, reviewer: str, feedback: tuple[ArtifactAnswer, ...]) -> Decision:
    return Decision(
        id=row.id,
        case_id=row.case_id,
        stage=Stage(row.stage),
        outcome=Outcome(row.outcome),
        technique=None if row.technique is None else Technique(row.technique),
        reason=row.reason,
        policy=row.policy,
        reviewer_id=row.person_id,
        reviewer=reviewer,
        analysis_id=row.analysis_id,
        verdict=None if row.verdict is None else Label(row.verdict),
        blind_outcome=None if row.blind_outcome is None else Outcome(row.blind_outcome),
        blind_technique=None if row.blind_technique is None else Technique(row.blind_technique),
        saw_verdict_first=row.saw_verdict_first,
        seconds=row.seconds,
        created_at=row.created_at,
        final_at=row.final_at,
        undone_at=row.undone_at,
        supersedes=row.supersedes,
        feedback=feedback,
    )


def appeals_of(session: Session, case_id: UUID) -> list[Appeal]:
    """All appeals of a case, oldest first."""
    rows = session.scalars(
        select(AppealRow)
        .where(AppealRow.case_id == case_id)
        .order_by(AppealRow.created_at, AppealRow.id)
        .execution_options(populate_existing=True)
    )
    return [
        Appeal(
            row.id,
            row.case_id,
            row.decision_id,
            row.reason,
            row.appellant,
            row.external_id,
            row.created_at,
            row.resolved_by,
        )
        for row in rows
    ]


def same_picture(session: Session, case_id: UUID, *, at_most: int = 20) -> list[UUID]:
    """Other cases of the very same bytes, the newest first. A likeness is not looked for."""
    analysis, other = aliased(AnalysisRow), aliased(AnalysisRow)
    rows = session.scalars(
        select(other.case_id)
        .join(analysis, analysis.image_sha256 == other.image_sha256)
        .where(analysis.case_id == case_id, other.case_id != case_id)
        .distinct()
        .order_by(other.case_id.desc())
        .limit(at_most)
    )
    return list(rows)
