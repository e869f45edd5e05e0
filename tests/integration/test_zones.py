"""A certificate is made of blind judgements alone, moves cases only while it is used, and ends by its own audit."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from moderation.analysis import Label, Verdict
from moderation.database.connection import Database
from moderation.database.tables import CaseRow, CertificateRow
from moderation.decisions import Outcome, is_blind_first
from moderation.errors import RequestRefused
from moderation.evidence import zones
from moderation.evidence.certify import Promise, Zone
from moderation.evidence.zones import Certificate
from moderation.settings import Settings
from tests.builders import an_analysis, new_id
from tests.integration.conftest import enrolled, ready
from tests.integration.deciding import a_review, decide

#: A promise that few labels can bear out.
PROMISE = Promise(Zone.CLEAR, error=0.4, confidence=0.9)
SHARE = 0.5


def bona_fide(score: float = 0.03) -> Verdict:
    return Verdict(Label.BONA_FIDE, score=score, calibrated=True)


def judged_blind(
    database: Database, settings: Settings, outcomes: Sequence[Outcome], score: float = 0.03
) -> None:
    review = a_review(database, settings, blind_first_share=1.0)
    reviewer = enrolled(database, f"Reader {new_id()}")
    for outcome in outcomes:
        case_id = ready(database, analysis=an_analysis(verdict=bona_fide(score)))
        decide(review, database, reviewer, case_id, outcome, blind=outcome)


def window() -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(days=1), now + timedelta(minutes=1)


def issued(database: Database) -> int:
    since, until = window()
    fingerprint = an_analysis().fingerprint
    with database.transaction() as session:
        found = zones.seek(session, fingerprint, None, PROMISE, since=since, until=until, blind_share=1.0)
        return zones.issue(session, fingerprint, None, found, since=since, until=until, actor="operator")


def the_one(database: Database) -> Certificate:
    with database.transaction() as session:
        (one,) = zones.certificates(session)
    return one


def arrives(database: Database, *, audited: bool, verdict: Verdict | None = None) -> tuple[UUID, int | None]:
    """A case that becomes ready, and the certificate that moved it."""
    while True:
        analysis = an_analysis(verdict=verdict or bona_fide())
        case_id = ready(database, analysis=analysis)
        if is_blind_first(case_id, SHARE) is audited:
            break
    with database.transaction() as session:
        return case_id, zones.apply_certificates(session, case_id, "s", analysis, blind_share=SHARE)


def test_only_what_was_said_before_the_verdict_counts(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE, Outcome.DEEPFAKE, Outcome.CANNOT_TELL])
    sighted = ready(database, analysis=an_analysis(verdict=bona_fide()))
    decide(a_review(database, settings), database, enrolled(database), sighted, Outcome.BONA_FIDE)
    since, until = window()

    with database.transaction() as session:
        found = zones.read_judged(session, an_analysis().fingerprint, None, since, until)

    assert [(one.deepfake, one.bona_fide) for one in found] == [(False, True), (True, False), (False, False)]


def test_a_campaign_counts_once(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 3)
    with database.transaction() as session:
        session.execute(update(CaseRow).values(campaign=7))
    since, until = window()

    with database.transaction() as session:
        assert len(zones.read_judged(session, an_analysis().fingerprint, None, since, until)) == 1


def test_too_few_labels_are_refused_and_nothing_is_stored(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE])

    with pytest.raises(RequestRefused, match="too few labels"):
        issued(database)
    with database.transaction() as session:
        assert zones.certificates(session) == []


def test_a_certificate_moves_nothing_until_an_admin_turns_it_on(
    database: Database, settings: Settings
) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)
    number = issued(database)

    before = arrives(database, audited=False)
    with database.transaction() as session:
        zones.use(session, number, actor="reviewer:1", blind_share=SHARE)
    moved_id, moved = arrives(database, audited=False)
    audited = arrives(database, audited=True)
    outside = arrives(database, audited=False, verdict=bona_fide(0.9))
    with database.transaction() as session:
        zones.stop_using(session, number)
    after = arrives(database, audited=False)

    assert (before[1], moved, audited[1], outside[1], after[1]) == (None, number, None, None, None)
    with database.transaction() as session:
        later = session.scalar(select(CaseRow.queued_at - CaseRow.ready_at).where(CaseRow.id == moved_id))
        usual = session.scalar(select(CaseRow.queued_at - CaseRow.ready_at).where(CaseRow.id == before[0]))
    assert later is not None
    assert usual is not None
    assert (later - usual).total_seconds() == zones.MOVED_SECONDS


def test_without_blind_judging_no_certificate_is_used(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)
    number = issued(database)

    with database.transaction() as session, pytest.raises(RequestRefused, match="audited"):
        zones.use(session, number, actor="reviewer:1", blind_share=0)


def test_an_audit_that_fails_revokes_by_itself_and_for_good(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)
    number = issued(database)
    with database.transaction() as session:
        zones.use(session, number, actor="reviewer:1", blind_share=SHARE)
        assert zones.audit(session, now=datetime.now(UTC)) == []
    assert the_one(database).audited_n == 12

    judged_blind(database, settings, [Outcome.DEEPFAKE] * 6)
    with database.transaction() as session:
        assert [one.id for one in zones.audit(session, now=datetime.now(UTC))] == [number]

    assert "6 were errors" in (the_one(database).revoked_because or "")
    assert arrives(database, audited=False)[1] is None
    with database.transaction() as session, pytest.raises(RequestRefused, match="revoked"):
        zones.use(session, number, actor="reviewer:1", blind_share=SHARE)


def test_a_certificate_whose_time_is_over_is_revoked(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)
    number = issued(database)
    with database.transaction() as session:
        zones.use(session, number, actor="reviewer:1", blind_share=SHARE)

    with database.transaction() as session:
        zones.audit(session, now=datetime.now(UTC) + zones.VALID + timedelta(hours=1))

    assert the_one(database).revoked_because == "its time is over"


def test_another_bundle_is_not_what_was_certified(database: Database, settings: Settings) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)
    number = issued(database)
    with database.transaction() as session:
        zones.use(session, number, actor="reviewer:1", blind_share=SHARE)
        session.execute(update(CertificateRow).values(fingerprint="another"))

    assert arrives(database, audited=False)[1] is None


def test_cases_drawn_and_left_undecided_are_counted(database: Database, settings: Settings) -> None:
    ready(database, analysis=an_analysis(verdict=bona_fide()))
    since, until = window()
    fingerprint = an_analysis().fingerprint
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET ready_at = now() - interval '4 days'"))
        counted = [
            zones.count_undecided(
                session, fingerprint, None, since - timedelta(days=9), until, blind_share=share
            )
            for share in (1.0, 0.0)
        ]

    assert counted == [1, 0]
