"""Review: a person takes a ready case, judges it, and may undo that; an uploader may ask for another person.

Every rule is applied here, for the console and for the API: the roles of `people.py`, the rules of `decisions.py`, the
life-cycle of `cases.py`. Each method is one transaction; a refusal changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from moderation.accounts.person_rows import insert_rule
from moderation.analysis import Technique
from moderation.cases import Case, CaseState, Move, Stage
from moderation.database import review as rows
from moderation.database.cases import require_case
from moderation.database.connection import Database
from moderation.database.drafts import drop_drafts
from moderation.database.outbox import Kind, cancel, enqueue
from moderation.database.queue import QueueFilter, aside_since
from moderation.database.review import BlindJudgement, Claim, ShownAnalysis
from moderation.database.tables import CaseRow
from moderation.decisions import (
    Appeal,
    Decision,
    Judgement,
    Outcome,
    may_review,
    needs_second,
    next_step,
    require_reason,
    stage_after,
    verdict_is_hidden,
)
from moderation.errors import (
    AlreadyAppealed,
    AlreadyClaimed,
    BonafideError,
    CaseArchived,
    ClaimLost,
    DecisionNotFound,
    JudgeFirst,
    JudgementIncomplete,
    NotAllowed,
    StaleCase,
    TransitionRefused,
    UndoClosed,
)
from moderation.evidence.zones import Certificate, closes, to_close
from moderation.people import RULE, RULE_ACTOR, Act, Person, may, require
from moderation.presentation import appeal_json, decision_json
from moderation.settings import Settings

#: Platforms hear of a decision this long after it is final. An undo of the last moment has committed by then.
UNDO_MARGIN = timedelta(seconds=2)

#: Cases that a rule closes in one go. The next go closes the rest.
_CLOSED_AT_ONCE = 500
#: The reason of a decision by rule, by why the case stood aside.
_RULE_REASONS = {
    "refused": "Closed by rule: the image could not be analysed, and nobody looked at it within {hours:g} hours.",
    "no_face": "Closed by rule: no face was found in it, and nobody looked at it within {hours:g} hours.",
}

#: Tries to take the next case while others take the cases that we find.
_TRIES = 5


@dataclass(frozen=True)
class Visibility:
    """What a person may see of a case."""

    #: The verdict, the rationale and what others decided are hidden until this person has judged.
    judge_first: bool
    #: What this person said before the verdict was shown. None: they were not asked, or have not answered yet.
    blind: BlindJudgement | None


class Review:
    """What reviewers do with cases. Threads may share it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    # --- taking a case, and releasing it

    def claim(self, person: Person, case_id: UUID) -> Claim:
        """Take a ready case, or renew the claim on it. Raise AlreadyClaimed with the holder and the end of their claim.

        Raise SameReviewer or NotAllowed when this person may not review it.
        """
        with self._database.transaction() as session:
            case = rows.lock_case(session, case_id)
            _require_ready(case)
            self._require_may(session, person, case)
            claim = self._put(session, person, case)
            if claim is not None:
                return claim
            holder = rows.find_holder(session, case_id)
            if holder is None:
                raise ClaimLost  # it was released just now
            raise AlreadyClaimed(holder.name, holder.expires_at)

    def claim_next(self, person: Person, wanted: QueueFilter | None = None) -> Claim | None:
        """Take the first case in the queue that this person may review and did not skip. None: there is none.

        A filter by verdict leaves out cases whose verdict is hidden from this person.
        """
        require(person, Act.REVIEW)
        wanted = wanted or QueueFilter()
        if wanted.state is not CaseState.READY:
            raise TransitionRefused(
                f"only cases that are ready are claimed, not those that are {wanted.state}"
            )
        for _ in range(_TRIES):
            with self._database.transaction() as session:
                case = rows.lock_next_case(
                    session,
                    wanted,
                    person.id,
                    escalated=may(person, Act.REVIEW_ESCALATED),
                    blind_share=self._settings.blind_first_share,
                )
                if case is None:
                    return None
                claim = self._put(session, person, case)
            # Otherwise somebody claimed it between our look and our lock; the next look sees that.
            if claim is not None:
                return claim
        return None

    def renew(self, person: Person, case_id: UUID, token: int) -> Claim:
        """Keep the case for another while. Raise ClaimLost."""
        with self._database.transaction() as session:
            claim = rows.renew_claim(
                session, case_id, person.id, token, claim_seconds=self._settings.claim_seconds
            )
            if claim is None:
                raise _lost(session, case_id, person)
            return claim

    def release(self, person: Person, case_id: UUID, token: int) -> None:
        """Release the case to the queue. Harmless when the person no longer holds it."""
        with self._database.transaction() as session:
            rows.end_claim(session, case_id, person.id, token)

    def skip(self, person: Person, case_id: UUID, token: int, reason: str) -> None:
        """Release the case and do not offer it to this person again. Raise ClaimLost or JudgementIncomplete."""
        if not reason.strip():
            raise JudgementIncomplete("say why you skip this case: it helps the next person")
        with self._database.transaction() as session:
            if not rows.end_claim(session, case_id, person.id, token):
                raise _lost(session, case_id, person)
            rows.insert_skip(session, case_id, person.id, reason)

    # --- judging

    def visibility(self, person: Person, case_id: UUID) -> Visibility:
        """Whether this person judges before they see the verdict, and what they said. Raise CaseNotFound."""
        with self._database.transaction() as session:
            case = require_case(session, case_id)
            blind = rows.find_blind_judgement(session, case_id, person.id)
            shown = rows.find_shown(session, case_id)
        return Visibility(self._is_hidden(case, shown, judged=blind is not None), blind)

    def judge_blind(
        self, person: Person, case_id: UUID, outcome: Outcome, technique: Technique | None = None
    ) -> None:
        """Record what a person says before they see the verdict. The first judgement stands.

        Raise TransitionRefused for a case whose verdict is not hidden.
        """
        judged = Judgement(outcome, technique)
        if outcome is Outcome.ESCALATE:
            raise JudgementIncomplete("a first judgement says what the picture is, or that you cannot tell")
        with self._database.transaction() as session:
            case = rows.lock_case(session, case_id)
            _require_ready(case)
            self._require_may(session, person, case)
            if not self._is_hidden(case, rows.find_shown(session, case_id), judged=False):
                raise TransitionRefused("the verdict of this case is not hidden")
            rows.insert_blind_judgement(session, case_id, person.id, judged.outcome, judged.technique)

    def decide(
        self,
        person: Person,
        case_id: UUID,
        *,
        token: int | None,
        version: int,
        judgement: Judgement,
        hides_verdict: bool = True,
        unseen: bool = False,
    ) -> Decision:
        """Decide a case, as it was shown at this version.

        `token`: of this person's claim; None decides a case that nobody has claimed. `hides_verdict`: whether the
        caller hides the verdict from people who judge first. `unseen`: the reviewer's browser could not show the
        picture. Raise StaleCase with the changes, ClaimLost, AlreadyClaimed, SameReviewer, NotAllowed, JudgeFirst,
        ReasonRequired or JudgementIncomplete; then nothing was decided.
        """
        require(person, Act.REVIEW)
        with self._database.transaction() as session:
            case = rows.lock_case(session, case_id)
            if case.version != version:
                raise StaleCase(case.version, rows.moves_since(session, case_id, version))
            _require_ready(case)
            claim = rows.find_claim(session, case_id)
            if token is not None and (claim is None or (claim.person_id, claim.token) != (person.id, token)):
                raise _lost(session, case_id, person)
            holder = rows.find_holder(session, case_id) if token is None else None
            if holder is not None:
                raise AlreadyClaimed(holder.name, holder.expires_at)
            standing = self._require_may(session, person, case)
            earlier = standing[-1] if standing else None
            shown = rows.find_shown(session, case_id)
            blind = rows.find_blind_judgement(session, case_id, person.id)
            if hides_verdict and self._is_hidden(case, shown, judged=blind is not None):
                raise JudgeFirst("say what the picture is before its verdict is shown")
            _require_whole(judgement, shown)
            require_reason(
                judgement,
                shown and shown.label,
                self._settings.reason_required,
                unseen=unseen or shown is None,
            )
            sampled = needs_second(case_id, self._settings.second_review_share)
            move = next_step(
                Stage(case.stage), judgement.outcome, earlier and earlier.outcome, sampled=sampled
            )
            decision_id = rows.insert_decision(
                session,
                case,
                judgement,
                person_id=person.id,
                shown=shown,
                blind=blind,
                claimed_at=None if token is None or claim is None else claim.claimed_at,
                supersedes=earlier and earlier.id,
                undo_seconds=self._settings.undo_seconds,
            )
            decision = self._move(
                session, case, decision_id, judgement, move, token=token, actor=person.actor
            )
            rows.drop_claims(session, case_id)
            if move is Move.DECIDE:
                rows.resolve_appeals(session, case_id, decision_id)
                told = {"decision": decision_json(decision)}
                enqueue(session, Kind.DECIDED, case_id, told, due_at=decision.final_at + UNDO_MARGIN)
            return decision

    def decided_already(
        self, person: Person, case_id: UUID, *, version: int, judgement: Judgement
    ) -> Decision | None:
        """The decision that this one would repeat: same version, same person, same words.

        None when there is none, and once the case has moved on or the decision was undone.
        """
        with self._database.transaction() as session:
            last = rows.last_event(session, case_id)
            if last is None or last.seq != version + 1 or last.kind not in _UNDONE_BY:
                return None
            decision = rows.find_decision(session, UUID(last.body["decision"]))
        same = decision is not None and decision.reviewer_id == person.id and _says(decision, judgement)
        return decision if same else None

    def decide_many(
        self, person: Person, items: Sequence[tuple[UUID, int]], judgement: Judgement
    ) -> list[Decision | BonafideError]:
        """Make the same decision for several cases at these versions. One outcome each, in order.

        A case is refused, and harms no other, when somebody has claimed it or when this person must judge it first.
        Raise NotAllowed unless the person may decide in bulk.
        """
        require(person, Act.BULK_DECIDE)
        outcomes: list[Decision | BonafideError] = []
        for case_id, version in items:
            try:
                decision = self.decide(person, case_id, token=None, version=version, judgement=judgement)
                outcomes.append(decision)
            except BonafideError as error:
                outcomes.append(error)
        return outcomes

    def close_by_rule(self) -> int:
        """Close, as cannot tell, the cases that stood aside for longer than this installation's rule; return how many.

        The decision is made in the rule's name, and the event names the rule: no person is said to have looked.
        """
        return sum(self._close_aside(why, hours) for why, hours in self._settings.close_aside_hours)

    def close_by_certificate(self) -> int:
        """Close, as bona fide, the cases that a certificate may close with an admin's permission; return how many.

        This too is in the rule's name, and the event names the certificate. Cases of the second-review sample stay.
        """
        with self._database.transaction() as session:
            closings = to_close(session, blind_share=self._settings.blind_first_share)
            if closings:
                insert_rule(session)
        return sum(
            self._close_certified(closing.certificate, case_id)
            for closing in closings
            for case_id in closing.case_ids
            if not needs_second(case_id, self._settings.second_review_share)
        )

    def undo(self, person: Person, decision_id: UUID, *, keep: bool = True) -> None:
        """Take a decision back: the case is ready for the same review again. With `keep` this person claims it.

        Raise UndoClosed when the window is over or the case has moved on, NotAllowed for somebody else's decision.
        """
        require(person, Act.REVIEW)
        with self._database.transaction() as session:
            found = rows.find_decision(session, decision_id)
            if found is None:
                raise DecisionNotFound(f"no decision has the id {decision_id}")
            case = rows.lock_case(session, found.case_id)
            if found.reviewer_id != person.id:
                raise NotAllowed("only who made a decision takes it back; others appeal")
            last = rows.last_event(session, case.id)
            if last is None or last.body.get("decision") != str(decision_id) or last.kind not in _UNDONE_BY:
                raise UndoClosed("the case moved on since this decision")
            if not rows.mark_undone(session, decision_id):
                raise UndoClosed(f"a decision can be undone for {self._settings.undo_seconds:g} seconds")
            rows.reopen_appeals(session, decision_id)
            cancel(session, case.id, Kind.DECIDED)
            rows.drop_claims(session, case.id)
            body = {"decision": str(decision_id)}
            move = _UNDONE_BY[last.kind]
            if not rows.move_back(session, move, case, found.stage, actor=person.actor, body=body):
                raise UndoClosed("the case moved on since this decision")
            if keep:
                self._put(session, person, case)

    def appeal(
        self,
        case_id: UUID,
        reason: str,
        *,
        actor: str,
        person: Person | None = None,
        external_id: str | None = None,
    ) -> Appeal:
        """Reopen a decided case for another person. Repeating an appeal returns the first one.

        A platform appeals as `actor`, a lead as `person`. Raise TransitionRefused without a decision and while it can
        still be undone, AlreadyAppealed when another appeal of it is open or answered.
        """
        if person is not None:
            require(person, Act.APPEAL)
        if not reason.strip():
            raise JudgementIncomplete("an appeal says why")
        with self._database.transaction() as session:
            case = rows.lock_case(session, case_id)
            earlier = rows.appeals_of(session, case_id)
            for appeal in earlier:
                same = (appeal.appellant, appeal.external_id, appeal.reason) == (actor, external_id, reason)
                if same and (external_id is not None or appeal.resolved_by is None):
                    return appeal
            if case.archive_id is not None:
                raise CaseArchived("this case is archived; `bonafide archive restore` brings it back")
            if case.erased_at is not None:
                raise TransitionRefused("this case was erased: nobody could look at its picture again")
            standing = _standing(session, case)
            if case.state != CaseState.DECIDED or not standing:
                if any(appeal.resolved_by is None for appeal in earlier):
                    raise AlreadyAppealed("an appeal of this case is open; another person will decide it")
                raise TransitionRefused(f"a case that is {case.state} cannot be appealed")
            against = standing[-1]
            if against.final_at > session.execute(select(func.now())).scalar_one():
                raise TransitionRefused(
                    f"this decision can still be undone; appeal it after {against.final_at:%H:%M:%S} UTC"
                )
            appeal_id = rows.insert_appeal(
                session, case, against.id, reason=reason, appellant=actor, external_id=external_id
            )
            if appeal_id is None:
                raise AlreadyAppealed("the case was reopened just now")
            appeal = next(appeal for appeal in rows.appeals_of(session, case_id) if appeal.id == appeal_id)
            told = {"decision": decision_json(against), "appeal": appeal_json(appeal)}
            enqueue(session, Kind.APPEALED, case_id, told)
            return appeal

    # --- underneath

    def _close_aside(self, why: str, hours: float) -> int:
        with self._database.transaction() as session:
            found = aside_since(session, why, 3600 * hours, limit=_CLOSED_AT_ONCE)
            if found:
                insert_rule(session)
        judgement = Judgement(Outcome.CANNOT_TELL, reason=_RULE_REASONS[why].format(hours=hours))
        rule = f"{why} after {hours:g} h"
        return sum(
            self._close(case_id, judgement, rule, lambda _, case: case.set_aside == why) for case_id in found
        )

    def _close_certified(self, certificate: Certificate, case_id: UUID) -> bool:
        judgement = Judgement(
            Outcome.BONA_FIDE,
            reason=f"Closed by certificate {certificate.id}, which an admin lets close its zone. {certificate.words}",
        )

        def fits(session: Session, case: CaseRow) -> bool:
            in_zone = (case.stage, case.certificate_id) == (Stage.FIRST, certificate.id)
            return in_zone and closes(session, certificate.id)

        return self._close(case_id, judgement, f"certificate {certificate.id}", fits)

    def _close(
        self, case_id: UUID, judgement: Judgement, rule: str, fits: Callable[[Session, CaseRow], bool]
    ) -> bool:
        """Decide a case in the rule's name, unless it changed or was claimed meanwhile: people go first."""
        with self._database.transaction() as session:
            case = rows.lock_case(session, case_id)
            if case.state != CaseState.READY or rows.find_holder(session, case_id) or not fits(session, case):
                return False
            decision_id = rows.insert_decision(
                session,
                case,
                judgement,
                person_id=RULE,
                shown=rows.find_shown(session, case_id),
                blind=None,
                claimed_at=None,
                supersedes=None,
                undo_seconds=0,
            )
            decision = self._move(
                session, case, decision_id, judgement, Move.DECIDE, token=None, actor=RULE_ACTOR, rule=rule
            )
            enqueue(session, Kind.DECIDED, case_id, {"decision": decision_json(decision)})
        return True

    def _move(
        self,
        session: Session,
        case: CaseRow,
        decision_id: UUID,
        judgement: Judgement,
        move: Move,
        *,
        token: int | None,
        actor: str,
        **others: str,
    ) -> Decision:
        """Make the move of a decision that was inserted. Its event holds `others` too. Raise ClaimLost."""
        stage = Stage(case.stage)
        body = {
            "decision": str(decision_id),
            "stage": stage,
            "outcome": judgement.outcome,
            "technique": judgement.technique,
            **others,
        }
        if not rows.move_decided(
            session, move, case, stage_after(move, stage), token=token, actor=actor, body=body
        ):
            raise _lost(session, case.id)  # nothing is written: the transaction is rolled back
        drop_drafts(session, case.id)
        decision = rows.find_decision(session, decision_id)
        assert decision is not None, "the caller inserted it"
        return decision

    def _put(self, session: Session, person: Person, case: CaseRow) -> Claim | None:
        return rows.put_claim(session, case, person.id, claim_seconds=self._settings.claim_seconds)

    def _require_may(self, session: Session, person: Person, case: CaseRow) -> list[Decision]:
        """Raise unless this person may review the case now; return the decisions that stand."""
        standing = _standing(session, case)
        may_review(Stage(case.stage), person, {decision.reviewer_id for decision in standing})
        return standing

    def _is_hidden(self, case: Case | CaseRow, shown: ShownAnalysis | None, *, judged: bool) -> bool:
        return verdict_is_hidden(
            case.id,
            CaseState(case.state),
            Stage(case.stage),
            has_verdict=shown is not None,
            judged=judged,
            share=self._settings.blind_first_share,
        )


#: The move that undoes each move of a decision.
_UNDONE_BY = {
    Move.DECIDE.value: Move.UNDO,
    Move.SECOND.value: Move.WITHDRAW,
    Move.ESCALATE.value: Move.WITHDRAW,
}


def _says(decision: Decision, judgement: Judgement) -> bool:
    said = (decision.outcome, decision.technique, decision.reason, decision.policy)
    meant = (judgement.outcome, judgement.technique, judgement.reason, judgement.policy)
    return said == meant and set(decision.feedback) == set(judgement.feedback)


def _lost(session: Session, case_id: UUID, person: Person | None = None) -> ClaimLost:
    """`person`: who is refused, where they named a claim."""
    holder = rows.find_holder(session, case_id)
    if holder is None:
        return ClaimLost()
    own = person is not None and person.id == holder.person_id
    return ClaimLost(holder.name, holder.expires_at, own=own)


def _standing(session: Session, case: CaseRow) -> list[Decision]:
    """The case's decisions that were not undone, oldest first."""
    return [decision for decision in rows.decisions_of(session, case.id) if decision.undone_at is None]


def _require_ready(case: CaseRow) -> None:
    if case.state != CaseState.READY:
        raise TransitionRefused(f"a case that is {case.state} is not open for review")


def _require_whole(judgement: Judgement, shown: ShownAnalysis | None) -> None:
    """Raise JudgementIncomplete when it names an artifact that was not shown, or one artifact twice."""
    said = [(answer.face, answer.ordinal) for answer in judgement.feedback]
    known = frozenset[tuple[int, int]]() if shown is None else shown.artifacts
    if len(said) != len(set(said)) or not known.issuperset(said):
        raise JudgementIncomplete("the answers are not about the artifacts of this case's rationale")
