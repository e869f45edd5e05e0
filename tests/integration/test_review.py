"""Review against a real Postgres: claims, decisions, conflicts, undo, appeals."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Uuid, column, select, text, values

from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Stage
from moderation.database import console
from moderation.database import review as rows
from moderation.database.analyses import record_analysis
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.moves import retry_case
from moderation.database.outbox import Kind
from moderation.database.queue import QueueFilter
from moderation.database.tables import CaseRow, DeliveryRow, SkipRow
from moderation.decisions import Answer, ArtifactAnswer, Decision, Judgement, Outcome, is_blind_first
from moderation.errors import (
    AlreadyAppealed,
    AlreadyClaimed,
    BonafideError,
    CaseNotFound,
    ClaimLost,
    DecisionNotFound,
    JudgeFirst,
    JudgementIncomplete,
    NotAllowed,
    ReasonRequired,
    SameReviewer,
    StaleCase,
    TransitionRefused,
    UndoClosed,
)
from moderation.people import Person, Role
from moderation.review import UNDO_MARGIN, Review
from moderation.settings import Settings
from moderation.triage import head_start, uncertainty
from moderation.webhooks.delivery_rows import insert_endpoint
from tests.builders import a_face_analysis, an_analysis, an_artifact, new_id
from tests.integration.conftest import accepted, begun, enrolled, ready, refused, stored

DEEPFAKE = Judgement(Outcome.DEEPFAKE, Technique.FS)
BONA_FIDE = Judgement(Outcome.BONA_FIDE, reason="the shadows agree")
CANNOT_TELL = Judgement(Outcome.CANNOT_TELL, reason="too blurred")
ESCALATE = Judgement(Outcome.ESCALATE, reason="a well-known person")

MakeReview = Callable[..., Review]


@pytest.fixture
def make(database: Database, settings: Settings) -> MakeReview:
    """A review whose settings the test names; nothing is sampled unless it says so."""

    def review(**fields: object) -> Review:
        chosen = {"blind_first_share": 0.0, "second_review_share": 0.0, **fields}
        return Review(database, settings.model_copy(update=chosen))

    return review


@pytest.fixture
def review(make: MakeReview) -> Review:
    return make()


def _decide(review: Review, person: Person, case_id: UUID, judgement: Judgement = DEEPFAKE) -> Decision:
    claim = review.claim(person, case_id)
    assert claim.version is not None
    return review.decide(person, case_id, token=claim.token, version=claim.version, judgement=judgement)


def let_reviewers_time_pass(database: Database, seconds: float) -> None:
    """Nothing sleeps: claims and undo windows are moved into the past, by the owner of the tables."""
    with database.transaction() as session:
        session.execute(text("ALTER TABLE decisions DISABLE TRIGGER append_only"))
        for statement in (
            "UPDATE claims SET claimed_at = claimed_at - :d, expires_at = expires_at - :d",
            "UPDATE decisions SET created_at = created_at - :d, final_at = final_at - :d",
        ):
            session.execute(text(statement).bindparams(d=timedelta(seconds=seconds)))
        session.execute(text("ALTER TABLE decisions ENABLE TRIGGER append_only"))


# --- claims


def test_a_claimed_case_is_in_front_of_one_person(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    claim = review.claim(ada, case_id)

    with pytest.raises(AlreadyClaimed, match="Ada has this case until") as refusal:
        review.claim(grace, case_id)

    assert (refusal.value.by, refusal.value.until) == ("Ada", claim.expires_at)
    assert stored(database, case_id).version == claim.version


def test_claiming_again_renews_and_keeps_the_token(review: Review, database: Database, ada: Person) -> None:
    case_id = ready(database)
    first = review.claim(ada, case_id)
    let_reviewers_time_pass(database, 300)

    again = review.claim(ada, case_id)

    assert again.token == first.token
    assert again.expires_at > first.expires_at - timedelta(seconds=300)


def test_a_claim_that_ran_out_is_anybodys_and_its_holder_can_write_no_more(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    old = review.claim(ada, case_id)
    let_reviewers_time_pass(database, 601)

    new = review.claim(grace, case_id)

    assert new.token != old.token
    with pytest.raises(ClaimLost, match="Grace has this case now") as refusal:
        review.renew(ada, case_id, old.token)
    assert (refusal.value.by, refusal.value.until) == ("Grace", new.expires_at)
    with pytest.raises(ClaimLost):
        review.skip(ada, case_id, old.token, "hard")
    with pytest.raises(ClaimLost):
        review.decide(ada, case_id, token=old.token, version=3, judgement=DEEPFAKE)
    review.release(ada, case_id, old.token)
    assert review.renew(grace, case_id, new.token).token == new.token


def test_a_holder_who_names_another_claim_is_not_told_of_herself_as_of_somebody_else(
    review: Review, database: Database, ada: Person
) -> None:
    case_id = ready(database)
    claim = review.claim(ada, case_id)

    with pytest.raises(ClaimLost) as refusal:
        review.decide(ada, case_id, token=claim.token + 1, version=3, judgement=DEEPFAKE)

    assert refusal.value.own
    assert ada.name not in str(refusal.value)


def test_a_claim_that_ran_out_and_that_nobody_took_still_decides(
    review: Review, database: Database, ada: Person
) -> None:
    case_id = ready(database)
    claim = review.claim(ada, case_id)
    let_reviewers_time_pass(database, 3600)

    decision = review.decide(ada, case_id, token=claim.token, version=3, judgement=DEEPFAKE)

    assert decision.seconds == pytest.approx(3600, abs=5)


@pytest.mark.parametrize("make_case", [accepted, None], ids=["waiting", "unknown"])
def test_what_is_not_ready_is_not_claimed(
    review: Review, database: Database, ada: Person, make_case: Callable[[Database], UUID] | None
) -> None:
    with pytest.raises(CaseNotFound if make_case is None else TransitionRefused):
        review.claim(ada, new_id() if make_case is None else make_case(database))


def test_the_next_case_is_the_urgent_one_then_the_oldest(
    review: Review, database: Database, ada: Person, grace: Person, lead: Person
) -> None:
    old, urgent, young = ready(database), ready(database, priority=50), ready(database)

    taken = [review.claim_next(person) for person in (ada, grace, lead)]

    assert [claim and claim.case_id for claim in taken] == [urgent, old, young]
    assert review.claim_next(ada) is None


def test_the_next_case_fits_the_filter(review: Review, database: Database, ada: Person) -> None:
    ready(database)
    wanted = ready(database, source="avatars")

    claim = review.claim_next(ada, QueueFilter(source="avatars", label=Label.DEEPFAKE))

    assert claim is not None
    assert claim.case_id == wanted
    assert review.claim_next(ada, QueueFilter(label=Label.BONA_FIDE)) is None


@pytest.mark.parametrize("wanted", [QueueFilter(label=Label.DEEPFAKE), QueueFilter(technique=Technique.FS)])
def test_a_filter_by_the_verdict_gives_no_hidden_verdict_away(
    make: MakeReview, database: Database, ada: Person, grace: Person, wanted: QueueFilter
) -> None:
    review = make(blind_first_share=1.0)
    case_id = ready(database)

    assert review.claim_next(ada, wanted) is None
    review.judge_blind(ada, case_id, Outcome.DEEPFAKE)

    assert review.claim_next(grace, wanted) is None
    claim = review.claim_next(ada, wanted)
    assert claim is not None
    assert claim.case_id == case_id


def test_postgres_and_we_hide_them_from_the_same_people(
    make: MakeReview, database: Database, ada: Person, grace: Person
) -> None:
    review = make(blind_first_share=1.0, second_review_share=0.0)
    accepted(database)
    refused(database)
    ready(database)
    judged, escalated, appealed, decided = (ready(database) for _ in range(4))
    for case_id in (judged, escalated, appealed, decided):
        review.judge_blind(ada, case_id, Outcome.DEEPFAKE)
    plain = make(undo_seconds=0.0)
    for case_id, judgement in ((escalated, ESCALATE), (appealed, DEEPFAKE), (decided, DEEPFAKE)):
        _decide(plain, ada, case_id, judgement)
    plain.appeal(appealed, "It is me.", actor="platform:x")

    for person in (ada, grace):
        with database.transaction() as session:
            chosen = select(CaseRow.id).where(rows.verdict_is_hidden_from(person.id, 1.0))
            hidden = set(session.scalars(chosen))
            ids = session.scalars(select(CaseRow.id)).all()
        assert hidden == {one for one in ids if review.visibility(person, one).judge_first}
    assert len(hidden) == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_postgres_and_we_hide_the_same_verdicts(database: Database, share: float) -> None:
    ids = [new_id() for _ in range(200)]
    given = values(column("id", Uuid), name="given").data([(one,) for one in ids])
    with database.transaction() as session:
        hidden = set(session.scalars(select(given.c.id).where(rows.in_blind_share(given.c.id, share))))

    assert hidden == {one for one in ids if is_blind_first(one, share)}


def test_a_skipped_case_is_offered_to_others_only(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    claim = review.claim_next(ada)
    assert claim is not None

    review.skip(ada, case_id, claim.token, "a language I do not read")

    assert review.claim_next(ada) is None
    taken = review.claim_next(grace)
    assert taken is not None
    assert taken.case_id == case_id
    with database.transaction() as session:
        skips = session.execute(select(SkipRow.person_id, SkipRow.reason).where(SkipRow.case_id == case_id))
        assert skips.all() == [(ada.id, "a language I do not read")]


def test_a_skip_does_not_wait_for_whoever_wants_its_case(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    token = review.claim(ada, case_id).token
    wanted: list[rows.Claim] = []
    claiming = threading.Thread(target=lambda: wanted.append(review.claim(grace, case_id)))

    with database.transaction() as session:
        assert rows.end_claim(session, case_id, ada.id, token)
        claiming.start()
        _wait_until_blocked(database)
        rows.insert_skip(session, case_id, ada.id, "hard")
    claiming.join(10)

    assert [claim.person_id for claim in wanted] == [grace.id]


def _wait_until_blocked(database: Database) -> None:
    """Until some statement waits for a lock that another transaction of this database holds."""
    waits = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with database.transaction() as session:
            if session.execute(waits).scalar_one():
                return
    raise AssertionError("nobody waited")


def test_a_skip_says_why(review: Review, database: Database, ada: Person) -> None:
    case_id = ready(database)
    claim = review.claim(ada, case_id)

    with pytest.raises(JudgementIncomplete):
        review.skip(ada, case_id, claim.token, "  ")


def test_a_released_case_goes_back_to_the_queue(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    review.release(ada, case_id, review.claim(ada, case_id).token)

    assert review.claim(grace, case_id).person_id == grace.id


def test_many_who_take_the_next_case_at_once_each_get_another(review: Review, database: Database) -> None:
    cases = {ready(database) for _ in range(12)}
    people = [enrolled(database, f"Reviewer{number}") for number in range(12)]
    taken: list[UUID] = []

    def take(person: Person) -> None:
        claim = review.claim_next(person)
        assert claim is not None
        taken.append(claim.case_id)

    threads = [threading.Thread(target=take, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(taken) == sorted(cases)


# --- decisions


def test_a_decision_ends_the_case_and_keeps_what_was_said(
    review: Review, database: Database, ada: Person
) -> None:
    two = (an_artifact(), an_artifact(heading="Eyes"))
    case_id = ready(database, analysis=an_analysis(faces=(a_face_analysis(rationale=two),)))
    feedback = (ArtifactAnswer(0, 1, Answer.AGREE), ArtifactAnswer(0, 2, Answer.DISAGREE))
    judgement = Judgement(
        Outcome.DEEPFAKE, Technique.FR, reason="the mouth", policy="impersonation", feedback=feedback
    )

    decision = _decide(review, ada, case_id, judgement)

    case = stored(database, case_id)
    assert (case.state, case.version) == (CaseState.DECIDED, 4)
    assert case.decided_at is not None
    with database.transaction() as session:
        assert rows.decisions_of(session, case_id) == [decision]
        assert rows.standing_decisions(session, [case_id]) == {case_id: decision}
        assert rows.find_claim(session, case_id) is None
        chain = read_chain(session, case_id)
    assert (decision.stage, decision.outcome, decision.technique) == (
        Stage.FIRST,
        Outcome.DEEPFAKE,
        Technique.FR,
    )
    assert (decision.reason, decision.policy, decision.feedback) == ("the mouth", "impersonation", feedback)
    assert (decision.reviewer, decision.verdict, decision.saw_verdict_first) == ("Ada", Label.DEEPFAKE, True)
    assert chain.broken_at is None
    last = chain.events[-1]
    assert (last.kind, last.actor) == ("decided", f"reviewer:{ada.id}")
    assert last.body == {
        "decision": str(decision.id),
        "stage": "first",
        "outcome": "deepfake",
        "technique": "FR",
    }


def test_a_case_without_an_analysis_is_decided_unaided(
    review: Review, database: Database, ada: Person
) -> None:
    decision = _decide(review, ada, refused(database), CANNOT_TELL)

    assert (decision.analysis_id, decision.verdict, decision.saw_verdict_first) == (None, None, False)


def test_a_stale_decision_is_refused_with_what_changed(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    old = review.claim(ada, case_id)
    let_reviewers_time_pass(database, 601)
    _decide(review, grace, case_id, BONA_FIDE)

    with pytest.raises(StaleCase) as refusal:
        review.decide(ada, case_id, token=old.token, version=3, judgement=DEEPFAKE)

    ((kind, actor, at),) = refusal.value.changes
    assert (refusal.value.version, kind, actor) == (4, "decided", grace.actor)
    assert at == stored(database, case_id).decided_at
    assert stored(database, case_id).version == 4


def test_nobody_decides_with_somebody_elses_claim(
    review: Review, database: Database, ada: Person, grace: Person
) -> None:
    case_id = ready(database)
    claim = review.claim(ada, case_id)

    with pytest.raises(ClaimLost):
        review.decide(grace, case_id, token=claim.token, version=3, judgement=DEEPFAKE)


def test_a_decision_against_the_verdict_needs_a_reason(
    review: Review, database: Database, ada: Person
) -> None:
    case_id = ready(database)

    with pytest.raises(ReasonRequired):
        _decide(review, ada, case_id, Judgement(Outcome.BONA_FIDE))

    assert stored(database, case_id).state is CaseState.READY
    assert _decide(review, ada, case_id, BONA_FIDE).outcome is Outcome.BONA_FIDE


@pytest.mark.parametrize(
    "feedback",
    [
        pytest.param((ArtifactAnswer(0, 7, Answer.AGREE),), id="an artifact that is not there"),
        pytest.param((ArtifactAnswer(0, 1, Answer.AGREE), ArtifactAnswer(0, 1, Answer.DISAGREE)), id="twice"),
    ],
)
def test_answers_are_about_the_artifacts_that_were_shown(
    review: Review, database: Database, ada: Person, feedback: tuple[ArtifactAnswer, ...]
) -> None:
    with pytest.raises(JudgementIncomplete):
        _decide(review, ada, ready(database), Judgement(Outcome.DEEPFAKE, feedback=feedback))


def test_two_who_decide_at_once_make_one_decision(make: MakeReview, database: Database) -> None:
    review = make(claim_seconds=600)
    leads = [enrolled(database, f"Lead{number}", Role.LEAD) for number in range(4)]
    case_id = ready(database)
    outcomes: list[Decision | BonafideError] = []

    def decide(person: Person) -> None:
        outcomes.extend(review.decide_many(person, [(case_id, 3)], DEEPFAKE))

    threads = [threading.Thread(target=decide, args=(person,)) for person in leads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(isinstance(outcome, Decision) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, StaleCase) for outcome in outcomes) == 3
    assert stored(database, case_id).version == 4


# --- who reviews what


def test_a_second_reading_is_by_somebody_else_and_agreement_ends_the_case(
    make: MakeReview, database: Database, ada: Person, grace: Person
) -> None:
    review = make(second_review_share=1.0)
    case_id = ready(database)
    first = _decide(review, ada, case_id)

    assert stored(database, case_id).stage is Stage.SECOND
    with pytest.raises(SameReviewer):
        review.claim(ada, case_id)
    assert review.claim_next(ada) is None
    second = _decide(review, grace, case_id)

    case = stored(database, case_id)
    assert (case.state, case.stage) == (CaseState.DECIDED, Stage.SECOND)
    assert second.supersedes == first.id


def test_two_readings_that_differ_go_to_a_lead(
    make: MakeReview, database: Database, ada: Person, grace: Person, lead: Person
) -> None:
    review = make(second_review_share=1.0)
    case_id = ready(database)
    _decide(review, ada, case_id)
    _decide(review, grace, case_id, BONA_FIDE)

    assert stored(database, case_id).stage is Stage.ESCALATED
    other = enrolled(database, "Mary")
    with pytest.raises(NotAllowed):
        review.claim(other, case_id)
    assert review.claim_next(other) is None
    with pytest.raises(JudgementIncomplete):
        _decide(review, lead, case_id, ESCALATE)

    assert _decide(review, lead, case_id, BONA_FIDE).stage is Stage.ESCALATED
    assert stored(database, case_id).state is CaseState.DECIDED


def test_an_escalation_goes_before_the_others(
    review: Review, database: Database, ada: Person, lead: Person
) -> None:
    ready(database)
    case_id = ready(database)
    _decide(review, ada, case_id, ESCALATE)

    claim = review.claim_next(lead)

    assert claim is not None
    assert claim.case_id == case_id


# --- blind first


def test_a_blind_case_is_judged_before_its_verdict_counts_and_both_are_kept(
    make: MakeReview, database: Database, ada: Person
) -> None:
    review = make(blind_first_share=1.0)
    case_id = ready(database)
    assert review.visibility(ada, case_id).judge_first
    with pytest.raises(JudgeFirst):
        _decide(review, ada, case_id)

    review.judge_blind(ada, case_id, Outcome.BONA_FIDE)
    review.judge_blind(ada, case_id, Outcome.DEEPFAKE, Technique.FE)

    visibility = review.visibility(ada, case_id)
    assert not visibility.judge_first
    assert visibility.blind is not None
    assert visibility.blind.outcome is Outcome.BONA_FIDE
    decision = _decide(review, ada, case_id)
    assert (decision.blind_outcome, decision.outcome) == (Outcome.BONA_FIDE, Outcome.DEEPFAKE)
    assert not decision.saw_verdict_first


def test_each_reviewer_of_a_blind_case_judges_first(
    make: MakeReview, database: Database, ada: Person, grace: Person
) -> None:
    review = make(blind_first_share=1.0)
    case_id = ready(database)
    review.judge_blind(ada, case_id, Outcome.BONA_FIDE)

    assert review.visibility(grace, case_id).judge_first


def test_without_a_verdict_there_is_nothing_to_hide(
    make: MakeReview, database: Database, ada: Person
) -> None:
    review = make(blind_first_share=1.0)
    case_id = refused(database)

    assert not review.visibility(ada, case_id).judge_first
    with pytest.raises(TransitionRefused):
        review.judge_blind(ada, case_id, Outcome.BONA_FIDE)


# --- in bulk


def test_a_selection_is_decided_with_one_outcome_each(
    make: MakeReview, database: Database, ada: Person, lead: Person
) -> None:
    review = make()
    free, taken, gone = ready(database), ready(database), ready(database)
    review.claim(ada, taken)
    _decide(review, ada, gone)

    outcomes = review.decide_many(lead, [(free, 3), (taken, 3), (gone, 3), (new_id(), 1)], DEEPFAKE)

    assert [type(outcome) for outcome in outcomes] == [Decision, AlreadyClaimed, StaleCase, CaseNotFound]
    assert stored(database, free).state is CaseState.DECIDED
    assert stored(database, taken).state is CaseState.READY


def test_a_reviewer_decides_nothing_in_bulk(review: Review, database: Database, ada: Person) -> None:
    with pytest.raises(NotAllowed):
        review.decide_many(ada, [(ready(database), 3)], DEEPFAKE)


def test_a_blind_case_is_not_decided_in_bulk(make: MakeReview, database: Database, lead: Person) -> None:
    review = make(blind_first_share=1.0)

    (outcome,) = review.decide_many(lead, [(ready(database), 3)], DEEPFAKE)

    assert isinstance(outcome, JudgeFirst)


def test_only_what_was_decided_in_one_bulk_is_undone_with_it(
    make: MakeReview, database: Database, lead: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = make(undo_seconds=600.0)
    first, second = (
        review.decide_many(lead, [(ready(database), 3), (ready(database), 3)], DEEPFAKE) for _ in range(2)
    )
    newest = second[-1]
    assert isinstance(newest, Decision)

    def together(gap: timedelta) -> list[UUID]:
        monkeypatch.setattr(console, "BULK_GAP", gap)
        with database.transaction() as session:
            return console.made_together(session, newest, limit=10)

    everything = [each.id for each in (*first, *second) if isinstance(each, Decision)]
    assert together(timedelta(hours=1)) == everything[::-1]
    assert together(timedelta(0)) == [newest.id]


# --- undo


def _place(database: Database, case_id: UUID) -> datetime:
    """The case's place in the reviewers' queue."""
    with database.transaction() as session:
        return session.execute(select(CaseRow.queued_at).where(CaseRow.id == case_id)).scalar_one()


@pytest.mark.parametrize("stage", [Stage.FIRST, Stage.ESCALATED, Stage.APPEAL])
def test_a_case_that_is_tried_again_has_the_place_of_its_stage(
    make: MakeReview, database: Database, ada: Person, stage: Stage
) -> None:
    review, analysis = make(undo_seconds=0.0), an_analysis()
    case_id = refused(database)
    if stage is not Stage.FIRST:
        # Nobody saw the picture: who calls it a deepfake all the same says how they know.
        known = replace(DEEPFAKE, reason="the uploader says so")
        _decide(review, ada, case_id, ESCALATE if stage is Stage.ESCALATED else known)
    if stage is Stage.APPEAL:
        review.appeal(case_id, "It is me.", actor="platform:x")
    with database.transaction() as session:
        assert retry_case(session, case_id, actor="operator")
    lease = begun(database, case_id)
    assert lease is not None

    with database.transaction() as session:
        record_analysis(session, case_id, lease.lease_token, analysis, actor="worker:w1", new_id=new_id())

    case, ahead = stored(database, case_id), head_start(lease.priority, uncertainty(analysis.verdict), stage)
    assert (case.state, case.stage) == (CaseState.READY, stage)
    assert case.ready_at is not None
    assert (case.ready_at - _place(database, case_id)).total_seconds() == pytest.approx(ahead)


@pytest.mark.parametrize(
    ("share", "judgement", "kinds"),
    [
        pytest.param(0.0, DEEPFAKE, ("decided", "decision_undone"), id="a decision"),
        pytest.param(1.0, DEEPFAKE, ("second_review_asked", "decision_withdrawn"), id="of a sample"),
        pytest.param(0.0, ESCALATE, ("escalated", "decision_withdrawn"), id="an escalation"),
    ],
)
def test_a_decision_is_taken_back_within_its_window(
    make: MakeReview,
    database: Database,
    ada: Person,
    share: float,
    judgement: Judgement,
    kinds: tuple[str, ...],
) -> None:
    review = make(second_review_share=share)
    case_id = ready(database)
    place = _place(database, case_id)
    decision = _decide(review, ada, case_id, judgement)

    review.undo(ada, decision.id)

    assert _place(database, case_id) == place
    case = stored(database, case_id)
    assert (case.state, case.stage, case.decided_at) == (CaseState.READY, Stage.FIRST, None)
    with database.transaction() as session:
        chain = read_chain(session, case_id)
        (kept,) = rows.decisions_of(session, case_id)
    assert chain.broken_at is None
    assert tuple(event.kind for event in chain.events[-2:]) == kinds
    assert kept.undone_at is not None
    assert _decide(review, ada, case_id, BONA_FIDE).supersedes is None


def test_a_decision_is_not_taken_back_twice_too_late_or_by_others(
    review: Review, database: Database, ada: Person, lead: Person
) -> None:
    first, second = _decide(review, ada, ready(database)), _decide(review, ada, ready(database))
    review.undo(ada, first.id)

    with pytest.raises(UndoClosed):
        review.undo(ada, first.id)
    with pytest.raises(NotAllowed):
        review.undo(lead, second.id)
    let_reviewers_time_pass(database, 61)
    with pytest.raises(UndoClosed, match="60 seconds"):
        review.undo(ada, second.id)
    with pytest.raises(DecisionNotFound):
        review.undo(ada, new_id())
    assert stored(database, second.case_id).state is CaseState.DECIDED


def test_a_decision_that_others_built_on_is_not_taken_back(
    make: MakeReview, database: Database, ada: Person, grace: Person
) -> None:
    review = make(second_review_share=1.0)
    case_id = ready(database)
    first = _decide(review, ada, case_id)
    _decide(review, grace, case_id)

    with pytest.raises(UndoClosed, match="moved on"):
        review.undo(ada, first.id)


# --- appeals


def test_an_appeal_is_decided_by_another_person(
    make: MakeReview, database: Database, ada: Person, grace: Person
) -> None:
    review = make(undo_seconds=0)
    case_id = ready(database)
    first = _decide(review, ada, case_id)

    appeal = review.appeal(case_id, "it is me in the picture", actor="platform:test", external_id="a-1")

    case = stored(database, case_id)
    assert (case.state, case.stage, appeal.decision_id) == (CaseState.READY, Stage.APPEAL, first.id)
    with pytest.raises(SameReviewer):
        review.claim(ada, case_id)
    second = _decide(review, grace, case_id, BONA_FIDE)
    with database.transaction() as session:
        (resolved,) = rows.appeals_of(session, case_id)
        assert read_chain(session, case_id).broken_at is None
    assert resolved.resolved_by == second.id
    assert second.supersedes == first.id


def test_the_same_appeal_again_is_the_same_and_another_one_waits_for_it(
    make: MakeReview, database: Database, ada: Person
) -> None:
    review = make(undo_seconds=0)
    case_id = ready(database)
    _decide(review, ada, case_id)
    first = review.appeal(case_id, "why", actor="platform:test")

    assert review.appeal(case_id, "why", actor="platform:test") == first
    with pytest.raises(AlreadyAppealed):
        review.appeal(case_id, "another why", actor="platform:test")


def test_what_is_not_decided_for_good_is_not_appealed(
    review: Review, database: Database, ada: Person, lead: Person
) -> None:
    case_id = ready(database)
    with pytest.raises(TransitionRefused, match="cannot be appealed"):
        review.appeal(case_id, "why", actor="platform:test")
    _decide(review, ada, case_id)
    with pytest.raises(TransitionRefused, match="still be undone"):
        review.appeal(case_id, "why", actor="platform:test")
    with pytest.raises(NotAllowed):
        review.appeal(case_id, "why", actor=ada.actor, person=ada)
    with pytest.raises(CaseNotFound):
        review.appeal(new_id(), "why", actor="platform:test")
    let_reviewers_time_pass(database, 61)

    assert review.appeal(case_id, "why", actor=lead.actor, person=lead).appellant == lead.actor


def test_an_undo_that_waited_until_the_window_was_over_comes_too_late(
    make: MakeReview, database: Database, ada: Person
) -> None:
    decision = _decide(make(undo_seconds=0.5), ada, ready(database))
    with database.transaction() as session:
        session.execute(text("SELECT pg_sleep(0.6)"))

        assert not rows.mark_undone(session, decision.id)


def test_an_undone_answer_to_an_appeal_leaves_it_open(
    make: MakeReview, database: Database, ada: Person, grace: Person
) -> None:
    review = make()
    case_id = ready(database)
    _decide(review, ada, case_id)
    let_reviewers_time_pass(database, 61)
    review.appeal(case_id, "why", actor="platform:test")
    answer = _decide(review, grace, case_id, BONA_FIDE)

    review.undo(grace, answer.id)

    with database.transaction() as session:
        (appeal,) = rows.appeals_of(session, case_id)
    assert appeal.resolved_by is None
    assert stored(database, case_id).stage is Stage.APPEAL


# --- what others see


def test_other_cases_of_the_very_same_bytes_are_found(database: Database) -> None:
    first, second = ready(database), ready(database)
    ready(database, analysis=an_analysis(picture=_other_picture()))

    with database.transaction() as session:
        assert rows.same_picture(session, first) == [second]


def _other_picture() -> object:
    from moderation.analysis import PictureFacts

    return PictureFacts("cd" * 32, 1234, "JPEG", 640, 480)


# --- what platforms are told


@pytest.fixture
def told(database: Database) -> Callable[[], list[tuple[str, str | None]]]:
    """What is in line for an endpoint that wants everything but analyses: kind and outcome."""
    with database.transaction() as session:
        insert_endpoint(
            session, url="https://example.org/hook", kinds=[Kind.DECIDED, Kind.APPEALED], source=None
        )

    def lines() -> list[tuple[str, str | None]]:
        with database.transaction() as session:
            rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id)).all()
        return [(row.kind, row.body["data"]["decision"]["outcome"]) for row in rows]

    return lines


def test_a_platform_is_told_when_the_decision_is_final(
    review: Review, database: Database, ada: Person, told: Callable[[], list[tuple[str, str | None]]]
) -> None:
    decision = _decide(review, ada, ready(database))

    assert told() == [("case.decided", "deepfake")]
    with database.transaction() as session:
        row = session.scalars(select(DeliveryRow)).one()
    assert row.due_at == decision.final_at + UNDO_MARGIN
    assert row.body["data"]["state"] == "decided"
    assert "Ada" not in str(row.body)


def test_a_platform_is_not_told_of_what_was_taken_back_or_goes_to_another_reviewer(
    review: Review, database: Database, ada: Person, told: Callable[[], list[tuple[str, str | None]]]
) -> None:
    review.undo(ada, _decide(review, ada, ready(database)).id)
    _decide(review, ada, ready(database), ESCALATE)

    assert told() == []


def test_a_platform_is_told_of_an_appeal(
    make: MakeReview, database: Database, ada: Person, told: Callable[[], list[tuple[str, str | None]]]
) -> None:
    review = make(undo_seconds=0)
    case_id = ready(database)
    _decide(review, ada, case_id)

    review.appeal(case_id, "why", actor="platform:test")

    assert told() == [("case.decided", "deepfake"), ("case.appealed", "deepfake")]
