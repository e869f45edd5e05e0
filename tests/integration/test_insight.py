"""How the review went, after real reviewers decided on a real Postgres; every expected number is counted by hand."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from moderation.analysis import Abstain, Technique, Verdict
from moderation.database.connection import Database
from moderation.decisions import Answer, Outcome
from moderation.errors import NotAllowed, RequestRefused
from moderation.intervals import Share
from moderation.people import Person
from moderation.reports.insight import Band, Insight, Insights
from moderation.settings import Settings
from tests.builders import a_face_analysis, a_verdict, an_analysis, bona_fide, undecided, with_verdict
from tests.integration.conftest import ready, refused
from tests.integration.deciding import a_review, decide

DEEPFAKE, BONA_FIDE, CANNOT_TELL = Outcome.DEEPFAKE, Outcome.BONA_FIDE, Outcome.CANNOT_TELL


def said(database: Database, verdict: Verdict, *, bundle: str = "scripted 1") -> UUID:
    return ready(database, analysis=an_analysis(faces=(with_verdict(verdict),), bundle=bundle))


def today(database: Database, lead: Person) -> Insight:
    return Insights(database).read(lead, now=datetime.now(UTC) + timedelta(seconds=5), days=1)


def test_an_empty_installation_has_no_numbers_and_no_faults(database: Database, lead: Person) -> None:
    seen = today(database, lead)

    assert seen.days == ()
    assert seen.agreement == Share(0, 0)
    assert (seen.agreement.share, seen.agreement.low, seen.agreement.high) == (None, None, None)
    assert (seen.wait.n, seen.wait.median, seen.backlog.oldest) == (0, None, None)


def test_volume_and_times(database: Database, settings: Settings, ada: Person, lead: Person) -> None:
    review = a_review(database, settings, undo_seconds=60)
    cases = [ready(database) for _ in range(4)]
    refused(database)
    with database.transaction() as session:
        for case_id, hours in zip(cases, (1, 2, 3, 9), strict=True):
            session.execute(
                text("UPDATE cases SET ready_at = now() - :waited WHERE id = :id"),
                {"waited": timedelta(hours=hours), "id": case_id},
            )
    for case_id in cases[:3]:
        decide(review, database, ada, case_id, DEEPFAKE)
    taken_back = decide(review, database, ada, cases[3], DEEPFAKE)
    review.undo(ada, taken_back.id)

    seen = today(database, lead)

    (day,) = seen.days
    assert (day.opened, day.made_ready, day.decided, day.appealed) == (5, 5, 3, 0)
    assert (seen.wait.n, seen.wait.median) == (3, pytest.approx(2 * 3600, abs=30))
    assert seen.work.n == 3
    assert seen.backlog.age.n == 2
    assert [(one.name, one.share) for one in seen.refused_by_reason] == [("image_corrupt", Share(1, 5))]


def test_agreement_with_the_model_by_technique_and_by_bundle(
    database: Database, settings: Settings, ada: Person, lead: Person
) -> None:
    review = a_review(database, settings)
    swap, edit = a_verdict(technique=Technique.FS), a_verdict(technique=Technique.FE)
    for verdict, bundle, outcome, technique in [
        (swap, "mini 1", DEEPFAKE, Technique.FS),
        (swap, "mini 1", DEEPFAKE, Technique.FR),
        (swap, "mini 2", BONA_FIDE, None),
        (edit, "mini 2", DEEPFAKE, None),
        (bona_fide(), "mini 2", BONA_FIDE, None),
        (bona_fide(), "mini 2", CANNOT_TELL, None),
        (undecided(), "mini 2", CANNOT_TELL, None),  # the model said nothing to agree with
    ]:
        decide(review, database, ada, said(database, verdict, bundle=bundle), outcome, technique)

    seen = today(database, lead)

    assert seen.agreement == Share(4, 6)
    assert {one.name: one.share for one in seen.agreement_by_technique} == {
        "face swapping": Share(2, 3),
        "face editing": Share(1, 1),
        "bona fide": Share(1, 2),
    }
    assert {one.name: one.share for one in seen.agreement_by_bundle} == {
        "mini 1": Share(2, 2),
        "mini 2": Share(2, 4),
    }
    assert seen.same_technique == Share(1, 2)
    assert seen.abstained == Share(1, 7)
    assert [one.name for one in seen.abstained_by_reason] == [Abstain.NEAR_THRESHOLD.words]


def test_overturned_appeals_and_second_reviews(
    database: Database, settings: Settings, ada: Person, grace: Person, lead: Person
) -> None:
    review, doubling = a_review(database, settings), a_review(database, settings, second_review_share=1.0)
    for answer in (DEEPFAKE, BONA_FIDE, BONA_FIDE):
        case_id = ready(database)
        decide(review, database, ada, case_id, DEEPFAKE)
        review.appeal(case_id, "it is I", actor="platform:test")
        decide(review, database, grace, case_id, answer)
    for second in (DEEPFAKE, BONA_FIDE):
        case_id = ready(database)
        decide(doubling, database, ada, case_id, DEEPFAKE)
        decide(doubling, database, grace, case_id, second)

    seen = today(database, lead)

    assert seen.overturned == Share(2, 3)
    assert seen.second_agreement == Share(1, 2)


def test_reliance_is_measured_on_what_was_judged_before_the_verdict_was_shown(
    database: Database, settings: Settings, ada: Person, grace: Person, lead: Person
) -> None:
    blind, plain = a_review(database, settings, blind_first_share=1.0), a_review(database, settings)
    # The model says deepfake each time. First judgement, decision, and what an appeal made of it (None: no appeal).
    for first, decision, truth in [
        (BONA_FIDE, DEEPFAKE, BONA_FIDE),  # switched, and the model was wrong: over-reliance
        (BONA_FIDE, BONA_FIDE, BONA_FIDE),  # stood by it, rightly
        (BONA_FIDE, DEEPFAKE, DEEPFAKE),  # switched, rightly
        (DEEPFAKE, DEEPFAKE, DEEPFAKE),
        (DEEPFAKE, BONA_FIDE, None),
    ]:
        case_id = ready(database)
        decide(blind, database, ada, case_id, decision, blind=first)
        if truth is not None:
            plain.appeal(case_id, "it is I", actor="platform:test")
            decide(plain, database, grace, case_id, truth)
    decide(plain, database, ada, ready(database), DEEPFAKE)  # saw the verdict first: says nothing

    seen = today(database, lead).reliance

    assert seen.switched == Share(2, 3)
    assert seen.kept == Share(1, 2)
    assert seen.followed_when_wrong == Share(1, 2)
    assert seen.followed_when_right == Share(2, 2)


def test_calibrated_scores_are_held_against_decisions(
    database: Database, settings: Settings, ada: Person, lead: Person
) -> None:
    review = a_review(database, settings)
    for score, calibrated, outcome in [
        (0.92, True, DEEPFAKE),
        (0.98, True, BONA_FIDE),
        (1.0, True, DEEPFAKE),
        (0.99, False, DEEPFAKE),  # no probability
        (0.95, True, CANNOT_TELL),  # no answer
    ]:
        verdict = a_verdict(score=score, calibrated=calibrated)
        decide(review, database, ada, said(database, verdict), outcome)

    (band,) = today(database, lead).bands

    assert (band.low, band.high, band.decided) == (0.9, 1.0, Share(2, 3))
    assert band.mean_score == pytest.approx((0.92 + 0.98 + 1.0) / 3)
    assert band.blind == Share(0, 0)


def test_what_reviewers_see_of_the_artifacts_too(
    database: Database, settings: Settings, ada: Person, lead: Person
) -> None:
    review = a_review(database, settings)
    shown = an_analysis(faces=(a_face_analysis(),))
    artifacts = len(shown.faces[0].rationale)
    for answer in (Answer.AGREE, Answer.DISAGREE, Answer.UNCLEAR):
        decide(
            review, database, ada, ready(database, analysis=shown), DEEPFAKE, answers=(answer,) * artifacts
        )

    seen = today(database, lead).artifacts_by_region

    assert sum(one.share.of for one in seen) == 2 * sum(len(a.regions) for a in shown.faces[0].rationale)
    assert all(one.share.share == 0.5 for one in seen)


def test_another_period_is_another_story(
    database: Database, settings: Settings, ada: Person, lead: Person
) -> None:
    decide(a_review(database, settings), database, ada, ready(database), DEEPFAKE)
    yesterday = datetime.now(UTC) - timedelta(days=1)

    seen = Insights(database).read(lead, now=yesterday)

    assert seen.days == ()
    assert seen.agreement == Share(0, 0)
    assert seen.abstained == Share(0, 0)


def test_reviewers_do_not_see_it_and_no_period_is_without_bounds(
    database: Database, ada: Person, lead: Person
) -> None:
    with pytest.raises(NotAllowed):
        today(database, ada)
    with pytest.raises(RequestRefused):
        Insights(database).read(lead, now=datetime.now(UTC), days=10_000)


def test_drift_is_not_seen_in_a_handful() -> None:
    assert not Band(0.9, 1.0, 0.95, Share(0, 0), Share(1, 20)).drifted
    assert Band(0.9, 1.0, 0.95, Share(0, 0), Share(20, 40)).drifted
    assert not Band(0.9, 1.0, 0.95, Share(0, 0), Share(38, 40)).drifted
