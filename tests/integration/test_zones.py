"""A certificate is made of blind judgements alone, moves cases only while it is used, and ends by its own audit."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError

from moderation.analysis import Label, Verdict
from moderation.cases import CaseState
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.review import decisions_of
from moderation.database.tables import CaseRow, CertificateRow
from moderation.decisions import Outcome, is_blind_first
from moderation.errors import RequestRefused
from moderation.evidence import zones
from moderation.evidence.certify import Promise, Zone
from moderation.evidence.related import hashes_decided, record_likeness
from moderation.evidence.rows import record_evidence
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Strength
from moderation.evidence.zones import Certificate
from moderation.likeness import Likeness
from moderation.local import as_role
from moderation.people import RULE
from moderation.reports.export_rows import LABELLED, stream
from moderation.reports.exports import Format, What, export
from moderation.review import Review
from moderation.settings import Settings
from tests.builders import an_analysis, new_id
from tests.integration.conftest import enrolled, ready, stored
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
        zones.stop_using(session, number, actor="reviewer:1")
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


def turned_on(database: Database, settings: Settings, *, closes: bool = False) -> int:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)
    number = issued(database)
    with database.transaction() as session:
        zones.use(session, number, actor="reviewer:1", blind_share=SHARE)
        if closes:
            zones.let_close(session, number, actor="reviewer:1", blind_share=SHARE)
    return number


def audited(database: Database) -> list[int]:
    with database.transaction() as session:
        return [one.id for one in zones.audit(session, now=datetime.now(UTC))]


def test_whatever_is_done_with_a_certificate_is_chained_and_a_change_shows(
    database: Database, settings: Settings
) -> None:
    number = turned_on(database, settings, closes=True)
    with database.transaction() as session:
        zones.use(session, number, actor="reviewer:2", blind_share=SHARE)  # it is on already: no event
        zones.stop_closing(session, number, actor="reviewer:2")
        zones.stop_using(session, number, actor="reviewer:2")
        zones.use(session, number, actor="reviewer:2", blind_share=SHARE)
    judged_blind(database, settings, [Outcome.DEEPFAKE] * 6)
    audited(database)

    with database.transaction() as session:
        chain = zones.log_of(session, number)
    assert [event.kind for event in chain.events] == [
        "issued", "used", "closing_allowed", "closing_stopped", "stopped", "used", "revoked"
    ]  # fmt: skip
    assert (chain.events[0].actor, chain.events[-1].actor) == ("operator", "sweeper")
    assert chain.events[0].body["n"] == 12
    assert "6 were errors" in chain.events[-1].body["because"]
    assert chain.broken_at is None

    with database.transaction() as session:
        session.execute(text("ALTER TABLE certificate_events DISABLE TRIGGER append_only"))
        session.execute(text("UPDATE certificate_events SET actor = 'reviewer:3' WHERE seq = 3"))
        assert zones.log_of(session, number).broken_at == 3
        session.rollback()
    with pytest.raises(DBAPIError, match="append-only"), database.transaction() as session:
        session.execute(text("DELETE FROM certificate_events"))


def test_only_people_turn_a_certificate_on(database: Database, database_url: str, settings: Settings) -> None:
    number = turned_on(database, settings)
    for role, allowed in (
        ("bonafide_sweeper", False),
        ("bonafide_worker", False),
        ("bonafide_reviewer", True),
    ):
        theirs = Database(as_role(database_url, role), pool_size=1)
        try:
            with theirs.transaction() as session:
                zones.let_close(session, number, actor="reviewer:1", blind_share=SHARE)
            assert allowed
        except DBAPIError:
            assert not allowed
        finally:
            theirs.close()
    theirs = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)
    with theirs.transaction() as session:  # that it revoked one it may say, and nothing else
        zones.audit(session, now=datetime.now(UTC) + zones.VALID + timedelta(hours=1))
    with pytest.raises(DBAPIError), theirs.transaction() as session:
        session.execute(
            text(
                "INSERT INTO certificate_events (certificate_id, seq, kind, actor, body, previous, hash)"
                " VALUES (:id, 0, 'used', 'sweeper', '{}', '', '')"
            ),
            {"id": number},
        )
    theirs.close()


# --- closing


def certified(database: Database, number: int, *, verdict: Verdict | None = None) -> UUID:
    case_id, moved = arrives(database, audited=False, verdict=verdict)
    assert moved == number
    return case_id


def closing(database: Database, settings: Settings) -> Review:
    return a_review(database, settings, blind_first_share=SHARE, second_review_share=0.0)


def test_what_an_admin_lets_a_certificate_close_is_closed_and_says_so(
    database: Database, settings: Settings
) -> None:
    number = turned_on(database, settings)
    before = certified(database, number)
    with database.transaction() as session:
        zones.let_close(session, number, actor="reviewer:1", blind_share=SHARE)
    audited(database)
    case_id = certified(database, number)
    drawn, _ = arrives(database, audited=True)
    outside, _ = arrives(database, audited=False, verdict=bona_fide(0.9))
    review = closing(database, settings)

    assert review.close_by_certificate() == 1
    assert review.close_by_certificate() == 0

    assert stored(database, case_id).state is CaseState.DECIDED
    assert {stored(database, one).state for one in (before, drawn, outside)} == {CaseState.READY}
    with database.transaction() as session:
        (decision,) = decisions_of(session, case_id)
        chain = read_chain(session, case_id)
    assert (decision.outcome, decision.reviewer_id, decision.seconds) == (Outcome.BONA_FIDE, RULE, None)
    assert f"certificate {number}" in (decision.reason or "")
    assert (chain.events[-1].actor, chain.events[-1].body["rule"]) == ("rule", f"certificate {number}")
    assert chain.broken_at is None


def test_what_somebody_holds_what_is_declared_ai_made_and_what_two_people_read_stay_open(
    database: Database, settings: Settings
) -> None:
    number = turned_on(database, settings, closes=True)
    audited(database)
    held, declared = certified(database, number), certified(database, number)
    review = closing(database, settings)
    review.claim(enrolled(database), held)
    says = Fact(FactKind.SOURCE_TYPE, Strength.DECLARED, {"source_types": ("x",)}, ClaimedOrigin.SYNTHETIC)
    with database.transaction() as session:
        sha256 = an_analysis().picture.sha256
        record_evidence(session, declared, sha256, Evidence((says,)), gatherer="1")

    assert review.close_by_certificate() == 0
    certified(database, number)
    twice = a_review(database, settings, blind_first_share=SHARE, second_review_share=1.0)
    assert twice.close_by_certificate() == 0
    assert review.close_by_certificate() == 1


@pytest.mark.parametrize("why", ["not audited", "audit left lying", "stopped", "revoked", "nothing blind"])
def test_what_nobody_checks_closes_nothing(database: Database, settings: Settings, why: str) -> None:
    number = turned_on(database, settings, closes=True)
    audited(database)
    certified(database, number)
    review = closing(database, settings)
    with database.transaction() as session:
        match why:
            case "not audited":
                session.execute(update(CertificateRow).values(audited_at=text("now() - interval '1 hour'")))
            case "stopped":
                zones.stop_closing(session, number, actor="reviewer:1")
            case "revoked":
                zones.audit(session, now=datetime.now(UTC) + zones.VALID + timedelta(hours=1))
            case "nothing blind":
                review = a_review(database, settings, blind_first_share=0.0, second_review_share=0.0)
            case _:
                pass
    if why == "audit left lying":
        lying, _ = arrives(database, audited=True)
        with database.transaction() as session:
            session.execute(update(CertificateRow).values(since=text("now() - interval '9 days'")))
            session.execute(
                text("UPDATE cases SET ready_at = now() - interval '4 days' WHERE id = :id"), {"id": lying}
            )

    assert review.close_by_certificate() == 0


def test_a_certificate_of_likely_deepfakes_closes_nothing(database: Database, settings: Settings) -> None:
    number = turned_on(database, settings)
    with database.transaction() as session:
        session.execute(update(CertificateRow).values(zone="likely"))
    with database.transaction() as session, pytest.raises(RequestRefused, match="for a person"):
        zones.let_close(session, number, actor="reviewer:1", blind_share=SHARE)


def test_what_a_rule_decided_is_no_label(database: Database, settings: Settings) -> None:
    number = turned_on(database, settings, closes=True)
    audited(database)
    case_id = certified(database, number)
    with database.transaction() as session:
        record_likeness(session, case_id, Likeness(1, 2, 100))
    assert closing(database, settings).close_by_certificate() == 1
    out = io.BytesIO()

    export(database, What.FEEDBACK, Format.JSONL, out)

    with stream(database, LABELLED, since=None, until=None) as rows:
        assert str(case_id) not in {str(row["case"]) for row in rows}
    with database.transaction() as session:
        assert list(hashes_decided(session, Outcome.BONA_FIDE)) == []


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
