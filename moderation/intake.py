"""Intake: a platform flags images. From then on we answer for them, until the platform takes them back.

Intake inserts the case, commits, then publishes. The order matters: the sweeper publishes a lost message again, but a
case that was never committed is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy.orm import Session

from moderation.cases import CaseState, Flag, Stage
from moderation.database.cases import Earlier, Opening, find_earlier, insert_cases
from moderation.database.connection import Database
from moderation.database.drafts import drop_drafts
from moderation.database.moves import withdraw_case
from moderation.database.outbox import Kind, enqueue
from moderation.database.questions import WITHDRAWN, end_questions_of
from moderation.database.review import drop_claims, lock_case
from moderation.dispatch import OF_LANE, Publisher
from moderation.errors import (
    AlreadyDecided,
    BucketNotAllowed,
    CaseErased,
    IdempotencyConflict,
    RequestRefused,
)
from moderation.storage import Storage
from moderation.triage import Lane, lane_of

#: Cases of one call that are published at once. The sweeper publishes the rest of a large batch within seconds, in
#: order of priority, so that the caller of a batch waits for the insert only.
PUBLISH_AT_ONCE = 32


@dataclass(frozen=True)
class Accepted:
    id: UUID
    state: CaseState
    #: False when the same request opened this case before.
    created: bool


class Intake:
    """Opens cases. Threads may share it."""

    def __init__(self, database: Database, storage: Storage, publisher: Publisher) -> None:
        self._database = database
        self._storage = storage
        self._publisher = publisher

    def receive(self, opening: Opening, *, actor: str) -> Accepted:
        """Open one case, or find the case that the same request opened before.

        Raise BucketNotAllowed, IdempotencyConflict or DatabaseUnavailable; then nothing was opened.
        """
        (outcome,) = self.receive_many([opening], actor=actor)
        if isinstance(outcome, RequestRefused):
            raise outcome
        return outcome

    def receive_many(self, wanted: Sequence[Opening], *, actor: str) -> list[Accepted | RequestRefused]:
        """One outcome per opening, in order. A refused one harms no other. The most urgent ones are published."""
        outcomes: list[Accepted | RequestRefused | None] = [self._refusal(opening.flag) for opening in wanted]
        good = [index for index, outcome in enumerate(outcomes) if outcome is None]
        urgent = set(sorted(good, key=lambda index: -wanted[index].flag.priority)[:PUBLISH_AT_ONCE])
        openings = {index: replace(wanted[index], publish=index in urgent) for index in good}
        with self._database.transaction() as session:
            inserted = (
                insert_cases(session, list(openings.values()), actor=actor) if openings else set[UUID]()
            )
            repeated = [opening for opening in openings.values() if opening.id not in inserted]
            earlier = find_earlier(session, repeated) if repeated else []
            self._publish(session, [o for o in openings.values() if o.publish and o.id in inserted])
        for index, opening in openings.items():
            new = opening.id in inserted
            outcomes[index] = (
                Accepted(opening.id, CaseState.WAITING, created=True) if new else _again(opening, earlier)
            )
        return [outcome for outcome in outcomes if outcome is not None]

    def withdraw(self, case_id: UUID, *, actor: str) -> None:
        """Take an image back: its case ends, whoever works on it. The second call does nothing.

        Raise CaseNotFound, CaseErased, and AlreadyDecided once there is a decision, appealed or not.
        """
        with self._database.transaction() as session:
            take_back(session, case_id, actor=actor)

    def _refusal(self, flag: Flag) -> RequestRefused | None:
        try:
            self._storage.allow(flag.image)
        except BucketNotAllowed as error:
            return error
        return None

    def _publish(self, session: Session, opened: Sequence[Opening]) -> None:
        for lane in Lane:
            ids = [opening.id for opening in opened if lane_of(opening.flag.priority) is lane]
            self._publisher.publish_after_commit(session, OF_LANE[lane], ids)


def _again(opening: Opening, earlier: Sequence[Earlier]) -> Accepted | IdempotencyConflict:
    flag, key = opening.flag, opening.idempotency_key
    for case in earlier:
        same_external = flag.external_id is not None and case.external_id == flag.external_id
        same_key = key is not None and case.idempotency_key == key
        if case.source != flag.source or not (same_external or same_key):
            continue
        if case.request_digest == flag.digest():
            return Accepted(case.id, case.state, created=False)
        named = f"external_id {flag.external_id!r}" if same_external else f"Idempotency-Key {key!r}"
        return IdempotencyConflict(f"{named} already opened case {case.id} with another body")
    # The other transaction ended without a case between our insert and our look: the caller may try again.
    return IdempotencyConflict("a request with the same key is being handled right now")


def take_back(session: Session, case_id: UUID, *, actor: str) -> None:
    """As `Intake.withdraw`, in the caller's transaction."""
    row = lock_case(session, case_id)
    if row.erased_at is not None:
        raise CaseErased("this case was erased: there is nothing left to take back")
    if row.state == CaseState.DECIDED or row.stage == Stage.APPEAL:
        raise AlreadyDecided("this case was decided: appeal or erase it instead")
    if row.state != CaseState.WITHDRAWN:
        withdraw_case(session, row, actor=actor)
        drop_claims(session, case_id)
        drop_drafts(session, case_id)
        end_questions_of(session, case_id, WITHDRAWN)
        enqueue(session, Kind.WITHDRAWN, case_id)
