"""The life of cases as a state machine: whatever happens in whatever order, what the design promises holds.

Hypothesis picks what platforms, workers, sweepers and reviewers do next, against a real Postgres, and compares each
case with a model of a few lines. A failure is printed as the shortest story that leads to it.
"""

from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from moderation.analysis import Label
from moderation.cases import CaseState, Move, Refusal, Stage
from moderation.database import review as rows
from moderation.database.analyses import record_analysis
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.moves import expire_leases, refuse_case, release_case, retry_case
from moderation.decisions import Judgement, Outcome, stage_after
from moderation.errors import BonafideError, LeaseLost, StaleCase, TransitionRefused
from moderation.people import Person, Role
from moderation.review import Review
from moderation.settings import Settings
from tests.builders import an_analysis, new_id
from tests.integration.conftest import accepted, begun, enrolled, let_time_pass, ready, stored
from tests.integration.test_review import let_reviewers_time_pass

ATTEMPTS = 2


@dataclass
class Known:
    """What the model knows of a case."""

    state: CaseState = CaseState.WAITING
    stage: Stage = Stage.FIRST
    version: int = 1
    #: Whoever decided, in order; those who took it back are not among them.
    deciders: list[UUID] = field(default_factory=list[UUID])
    #: The last outcome that stands.
    outcome: Outcome | None = None
    analyzed: bool = False


@dataclass(frozen=True)
class Held:
    """A lease that a worker believes it holds."""

    case_id: UUID
    token: int


@dataclass(frozen=True)
class Taken:
    """A claim that a reviewer believes they hold, on the case as they saw it."""

    case_id: UUID
    person: Person
    token: int
    version: int


@dataclass(frozen=True)
class Made:
    """A decision, and what the case was before and after."""

    id: UUID
    person: Person
    case_id: UUID
    before: Known
    version: int


class LifeCycle(RuleBasedStateMachine):
    """Everybody who touches a case, acting in any order."""

    database: Database
    settings: Settings
    #: The kinds of moves that any story came to.
    reached: set[str]

    cases: Bundle[UUID] = Bundle("cases")
    leases: Bundle[Held] = Bundle("leases")
    claims: Bundle[Taken] = Bundle("claims")
    decisions: Bundle[Made] = Bundle("decisions")
    who = st.integers(0, 3)
    outcomes = st.sampled_from(Outcome)

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[UUID, Known] = {}
        self.people = [
            enrolled(self.database, f"{role}{new_id()}", role)
            for role in (Role.REVIEWER, Role.REVIEWER, Role.LEAD, Role.LEAD)
        ]

    # --- what happens

    @initialize(target=cases, second=st.sampled_from([0.0, 1.0]))
    def the_day_begins_with_a_ready_case(self, second: float) -> UUID:
        self.review = Review(
            self.database,
            self.settings.model_copy(update={"blind_first_share": 0.0, "second_review_share": second}),
        )
        case_id = ready(self.database)
        self.known[case_id] = Known(state=CaseState.READY, version=3, analyzed=True)
        return case_id

    @precondition(lambda self: len(self.known) < 2)
    @rule(target=cases)
    def flag(self) -> UUID:
        case_id = accepted(self.database)
        self.known[case_id] = Known()
        return case_id

    @rule(target=leases, case_id=cases)
    def begin(self, case_id: UUID) -> Any:
        lease = begun(self.database, case_id, quarantined=True)
        known = self.known[case_id]
        assert (lease is not None) <= (known.state is CaseState.WAITING)
        if lease is None:
            return multiple()
        self._moved(case_id, CaseState.ANALYZING)
        return Held(case_id, lease.lease_token)

    @rule(held=consumes(leases), how=st.sampled_from(["record", "refuse", "release"]))
    def finish(self, held: Held, how: str) -> None:
        try:
            with self.database.transaction() as session:
                match how:
                    case "record":
                        record_analysis(
                            session,
                            held.case_id,
                            held.token,
                            an_analysis(fingerprint=str(held.token)),
                            actor="worker:w1",
                            new_id=new_id(),
                        )
                    case "refuse":
                        refuse_case(
                            session,
                            held.case_id,
                            held.token,
                            Refusal("image_corrupt", "broken"),
                            actor="worker:w1",
                        )
                    case _:
                        release_case(
                            session, held.case_id, held.token, actor="worker:w1", why="unavailable", due_in=0
                        )
        except LeaseLost:
            assert self._token(held.case_id) != held.token
            return
        assert self.known[held.case_id].state is CaseState.ANALYZING
        self._moved(held.case_id, CaseState.WAITING if how == "release" else CaseState.READY)
        self.known[held.case_id].analyzed = how == "record"

    @rule(seconds=st.sampled_from([30, 61]))
    def leases_age_and_a_sweeper_looks(self, seconds: int) -> None:
        let_time_pass(self.database, seconds)
        with self.database.transaction() as session:
            expire_leases(session, actor="sweeper", attempts_at_most=ATTEMPTS)
        for case_id, known in self.known.items():
            case = stored(self.database, case_id)
            if known.state is CaseState.ANALYZING and case.state is not CaseState.ANALYZING:
                assert case.state in (CaseState.WAITING, CaseState.READY)
                self._moved(case_id, case.state)
                known.analyzed = False
        let_time_pass(self.database, 600)  # beyond every delay of a retry

    @rule(case_id=cases)
    def retry(self, case_id: UUID) -> None:
        known = self.known[case_id]
        with self.database.transaction() as session:
            retried = retry_case(session, case_id, actor="operator")
        assert retried == (known.state is CaseState.READY and not known.analyzed)
        if retried:
            self._moved(case_id, CaseState.WAITING)

    @rule(target=claims, case_id=cases, who=who)
    def claim(self, case_id: UUID, who: int) -> Any:
        return self._claimed(case_id, self.people[who]) or multiple()

    @rule(seconds=st.sampled_from([30, 601]))
    def reviewers_are_away(self, seconds: int) -> None:
        let_reviewers_time_pass(self.database, seconds)

    @rule(target=decisions, taken=consumes(claims), outcome=outcomes)
    def decide(self, taken: Taken, outcome: Outcome) -> Any:
        return self._decided(taken, outcome)

    @rule(target=decisions, case_id=cases, who=who, outcome=outcomes)
    def claim_and_decide(self, case_id: UUID, who: int, outcome: Outcome) -> Any:
        taken = self._claimed(case_id, self.people[who])
        return multiple() if taken is None else self._decided(taken, outcome)

    @rule(made=consumes(decisions))
    def undo(self, made: Made) -> None:
        known = self.known[made.case_id]
        try:
            self.review.undo(made.person, made.id)
        except BonafideError:
            return
        assert known.version == made.version, "nothing that others built on is taken back"
        made.before.version = known.version
        self.known[made.case_id] = made.before
        self._moved(made.case_id, CaseState.READY)

    @rule(case_id=cases, why=st.sampled_from(["it is me", "it is art"]))
    def appeal(self, case_id: UUID, why: str) -> None:
        let_reviewers_time_pass(self.database, 61)  # beyond the undo window
        known = self.known[case_id]
        before = stored(self.database, case_id).version
        try:
            self.review.appeal(case_id, why, actor="platform:test")
        except TransitionRefused:
            return
        except BonafideError:
            assert known.state is not CaseState.DECIDED
            return
        if stored(self.database, case_id).version == before:
            return  # the same appeal again
        assert known.state is CaseState.DECIDED
        known.stage = Stage.APPEAL
        self._moved(case_id, CaseState.READY)

    # --- what holds

    @invariant()
    def every_case_is_what_the_model_says(self) -> None:
        for case_id, known in self.known.items():
            case = stored(self.database, case_id)
            assert (case.state, case.stage, case.version) == (known.state, known.stage, known.version)
            assert (case.lease is not None) == (case.state is CaseState.ANALYZING)
            assert (case.decided_at is not None) == (case.state is CaseState.DECIDED)

    @invariant()
    def every_move_is_in_an_unbroken_log(self) -> None:
        for case_id, known in self.known.items():
            with self.database.transaction() as session:
                chain = read_chain(session, case_id)
                decided = [one for one in rows.decisions_of(session, case_id) if one.undone_at is None]
            self.reached.update(event.kind for event in chain.events)
            assert chain.broken_at is None
            assert len(chain.events) == known.version
            assert [decision.reviewer_id for decision in decided] == known.deciders
            assert len(set(known.deciders)) == len(known.deciders), "nobody reviews their own decision"
            if known.state is CaseState.DECIDED:
                assert decided[-1].outcome is not Outcome.ESCALATE

    def _claimed(self, case_id: UUID, person: Person) -> Taken | None:
        known = self.known[case_id]
        try:
            claim = self.review.claim(person, case_id)
        except BonafideError:
            return None
        assert known.state is CaseState.READY
        assert person.id not in known.deciders
        assert known.stage is not Stage.ESCALATED or person.role is Role.LEAD
        assert claim.version == known.version
        return Taken(case_id, person, claim.token, known.version)

    def _decided(self, taken: Taken, outcome: Outcome) -> Any:
        known = self.known[taken.case_id]
        try:
            decision = self.review.decide(
                taken.person,
                taken.case_id,
                token=taken.token,
                version=taken.version,
                judgement=Judgement(outcome, reason="because"),
            )
        except BonafideError as error:
            said = len(error.changes) if isinstance(error, StaleCase) else 0
            self._holds(said == known.version - taken.version)
            return multiple()
        assert known.version == taken.version
        assert known.state is CaseState.READY
        assert taken.person.id not in known.deciders
        assert decision.verdict is (Label.DEEPFAKE if known.analyzed else None)
        before = replace(known, deciders=list(known.deciders))
        with self.database.transaction() as session:
            last = rows.last_event(session, taken.case_id)
        assert last is not None
        move = Move(last.kind)
        known.stage = stage_after(move, known.stage)
        known.deciders.append(taken.person.id)
        known.outcome = outcome
        self._moved(taken.case_id, CaseState.DECIDED if move is Move.DECIDE else CaseState.READY)
        return Made(decision.id, taken.person, taken.case_id, before, known.version)

    def _moved(self, case_id: UUID, state: CaseState) -> None:
        self.known[case_id].state = state
        self.known[case_id].version += 1

    def _holds(self, fact: bool) -> None:
        assert fact

    def _token(self, case_id: UUID) -> int | None:
        lease = stored(self.database, case_id).lease
        return None if lease is None else lease.token


@pytest.fixture
def machine(database: Database, settings: Settings) -> type[LifeCycle]:
    """The machine on this test's own database."""
    return type("LifeCycleHere", (LifeCycle,), {"database": database, "settings": settings, "reached": set()})


def test_whatever_happens_in_whatever_order_the_promises_hold(machine: type[LifeCycle]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )

    # A machine that never gets far would prove little.
    far = {Move.RECORD, Move.DECIDE, Move.SECOND, Move.ESCALATE, Move.WITHDRAW, Move.APPEAL}
    assert machine.reached >= far, machine.reached
