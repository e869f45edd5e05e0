"""Intake: a platform flags images, and from then on they are ours to answer for, until it takes them back.

Accepting is: insert the case, commit, then ring. Never the other way round, and never inside the transaction: a bell
that nobody hears is rung again by the sweeper, a case that was never committed is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from moderation.cases import CaseState, Flag, Stage
from moderation.database.cases import Earlier, Opening, find_earlier, insert_cases, mark_unrung
from moderation.database.connection import Database
from moderation.database.deliveries import Kind, enqueue
from moderation.database.drafts import drop_drafts
from moderation.database.ids import new_id
from moderation.database.moves import withdraw_case
from moderation.database.questions import WITHDRAWN, end_questions_of
from moderation.database.review import drop_claims, lock_case
from moderation.dispatch import Doorbell
from moderation.errors import (
    AlreadyDecided,
    BucketNotAllowed,
    CaseErased,
    CaseNotFound,
    IdempotencyConflict,
    RequestRefused,
)
from moderation.storage import Storage
from moderation.triage import Lane, lane_of

#: Cases of one call that are rung for at once. The sweeper rings for the rest of a large batch within seconds, in
#: order of priority, so that a batch costs its caller the insert and no more.
RING_AT_ONCE = 32


@dataclass(frozen=True)
class Submission:
    flag: Flag
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Accepted:
    id: UUID
    state: CaseState
    #: False when the same request had opened this case before.
    created: bool


class Intake:
    """Opens cases. Everything it holds is shared and safe between threads."""

    def __init__(self, database: Database, storage: Storage, doorbell: Doorbell) -> None:
        self._database = database
        self._storage = storage
        self._doorbell = doorbell

    def receive(self, submission: Submission, *, actor: str) -> Accepted:
        """Open one case, or find the one that the same request opened before.

        Raise BucketNotAllowed, IdempotencyConflict or DatabaseUnavailable; in each case nothing was opened.
        """
        (outcome,) = self.receive_many([submission], actor=actor)
        if isinstance(outcome, RequestRefused):
            raise outcome
        return outcome

    def receive_many(
        self, submissions: Sequence[Submission], *, actor: str
    ) -> list[Accepted | RequestRefused]:
        """One outcome per submission, in order. One that is refused harms no other."""
        outcomes: list[Accepted | RequestRefused | None] = [self._refusal(s.flag) for s in submissions]
        good = [index for index, outcome in enumerate(outcomes) if outcome is None]
        urgent = set(sorted(good, key=lambda index: -submissions[index].flag.priority)[:RING_AT_ONCE])
        openings = {index: _opening(submissions[index], ring=index in urgent) for index in good}
        with self._database.transaction() as session:
            inserted = (
                insert_cases(session, list(openings.values()), actor=actor) if openings else set[UUID]()
            )
            repeated = [opening for opening in openings.values() if opening.id not in inserted]
            earlier = find_earlier(session, repeated) if repeated else []
        for index, opening in openings.items():
            new = opening.id in inserted
            outcomes[index] = (
                Accepted(opening.id, CaseState.WAITING, created=True) if new else _again(opening, earlier)
            )
        self._ring([o for o in openings.values() if o.ring and o.id in inserted])
        return [outcome for outcome in outcomes if outcome is not None]

    def withdraw(self, case_id: UUID, *, actor: str) -> None:
        """Take an image back: its case ends here, whoever has it in hand. The second time nothing happens.

        Raise CaseNotFound, CaseErased, and AlreadyDecided once a decision stands, appealed or not.
        """
        with self._database.transaction() as session:
            row = lock_case(session, case_id)
            if row is None:
                raise CaseNotFound(f"no case has the id {case_id}")
            if row.erased_at is not None:
                raise CaseErased("this case was erased: there is nothing left to take back")
            if row.state == CaseState.DECIDED or row.stage == Stage.APPEAL:
                raise AlreadyDecided("this case was decided: it is appealed against, or erased")
            if row.state != CaseState.WITHDRAWN:
                withdraw_case(session, row, actor=actor)
                drop_claims(session, case_id)
                drop_drafts(session, case_id)
                end_questions_of(session, case_id, WITHDRAWN)
                enqueue(session, Kind.WITHDRAWN, case_id)

    def _refusal(self, flag: Flag) -> RequestRefused | None:
        try:
            self._storage.allow(flag.image)
        except BucketNotAllowed as error:
            return error
        return None

    def _ring(self, opened: Sequence[Opening]) -> None:
        unrung: list[UUID] = []
        for lane in Lane:
            ids = [opening.id for opening in opened if lane_of(opening.flag.priority) is lane]
            rung = self._doorbell.dispatch_cases(ids, lane) if ids else 0
            unrung += ids[rung:]
        if unrung:
            with self._database.transaction() as session:
                mark_unrung(session, unrung)


def _opening(submission: Submission, *, ring: bool) -> Opening:
    return Opening(new_id(), submission.flag, submission.idempotency_key, ring=ring)


def _again(opening: Opening, earlier: Sequence[Earlier]) -> Accepted | IdempotencyConflict:
    flag, key = opening.flag, opening.idempotency_key
    for case in earlier:
        same_external = flag.external_id is not None and (case.source, case.external_id) == (
            flag.source,
            flag.external_id,
        )
        same_key = key is not None and (case.source, case.idempotency_key) == (flag.source, key)
        if not (same_external or same_key):
            continue
        if case.request_digest == flag.digest():
            return Accepted(case.id, case.state, created=False)
        named = f"external_id {flag.external_id!r}" if same_external else f"Idempotency-Key {key!r}"
        return IdempotencyConflict(f"{named} already opened case {case.id} with another body")
    # Between our insert and our look the other transaction ended without a case: the caller may simply try again.
    return IdempotencyConflict("a request with the same key is being handled right now")
