"""What evidence does in a browser: side by side, a campaign, and a certificate from its first day to its last."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from moderation.analysis import Label, Verdict
from moderation.cases import CaseState
from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.decisions import Judgement, Outcome
from moderation.evidence import zones
from moderation.evidence.certify import Promise, Zone
from moderation.evidence.related import put_list, record_likeness
from moderation.evidence.rows import record_evidence
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Strength
from moderation.likeness import Likeness
from moderation.review import Review
from moderation.settings import Settings
from tests.builders import new_id
from tests.console.conftest import BLIND_SHARE, Cases, Sit, Team, an_analysis_of

CLEAR = Verdict(Label.BONA_FIDE, score=0.03, margin=-4.0, answer_mass=0.99, calibrated=True)
PROMISE = Promise(Zone.CLEAR, error=0.4, confidence=0.9)


def clear(cases: Cases, source: str, *, blind: bool = False) -> UUID:
    """A case of the clear zone of a pipeline of this test's own: no certificate moves the cases of another test."""
    found = an_analysis_of(new_id().bytes)
    (face,) = found.faces
    analysis = replace(
        found, fingerprint=source, verdict=CLEAR, faces=(replace(face, verdict=CLEAR, rationale=()),)
    )
    case_id = cases.ready(source=source, analysis=analysis, blind=blind, name="portrait-1.jpg")
    with cases.owner.transaction() as session:
        zones.apply_certificates(session, case_id, source, analysis, blind_share=BLIND_SHARE)
    return case_id


def looks_like(owner: Database, case_id: UUID, frame: int, face: int) -> UUID:
    with owner.transaction() as session:
        record_likeness(session, case_id, Likeness(frame, frame ^ (2**255), 100, (face,)))
    return case_id


def no_violations(page: Page) -> None:
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_card_with_a_fact_of_each_strength(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str, scheme: str
) -> None:
    analysis = an_analysis_of(new_id().bytes)
    case_id = cases.ready(source=source, analysis=analysis)
    facts = (
        Fact(
            FactKind.CONTENT_CREDENTIALS,
            Strength.CRYPTOGRAPHIC,
            {"state": "trusted", "signer": "Example Cameras", "source_types": ("digitalCapture",)},
            ClaimedOrigin.CAPTURED,
        ),
        Fact(FactKind.GENERATOR, Strength.DECLARED, {"generators": ("Example",)}, ClaimedOrigin.SYNTHETIC),
        Fact(FactKind.THUMBNAIL, Strength.ANOMALY, {"differs": True, "likeness": 0.1}),
        Fact(FactKind.KNOWN_PICTURE, Strength.CONTEXT, {"list": "known fakes", "distance": 3}),
    )
    with owner.transaction() as session:
        record_evidence(session, case_id, analysis.picture.sha256, Evidence(facts), gatherer="1")
    page = sit(team.rosa, color_scheme=scheme).open(f"/cases/{case_id}")
    card = page.get_by_role("region", name="Evidence")
    for fold in card.locator("summary").all():
        fold.click()

    expect(card).to_contain_text("It looks like a picture on the list “known fakes”: 3 of 256 bits differ.")
    no_violations(page)


def test_near_copies_stand_side_by_side_with_what_was_decided_and_what_differs(
    sit: Sit, team: Team, cases: Cases, owner: Database, chosen: Settings, source: str
) -> None:
    frame, face = new_id().int << 128, new_id().int
    swapped = looks_like(owner, cases.ready(source=source), frame ^ 0b111, face ^ (2**40 - 1))
    case_id = looks_like(owner, cases.ready(source=source, name="portrait-1.jpg"), frame, face)
    with owner.transaction() as session:
        put_list(session, source, "of a partner", [(frame ^ 1, "no. 7")])
    review = Review(owner, chosen)
    token = review.claim(team.ben, swapped).token
    review.decide(
        team.ben, swapped, token=token, version=3, judgement=Judgement(Outcome.DEEPFAKE, reason="the mouth")
    )
    page = sit(team.rosa).open(f"/cases/{case_id}")

    page.get_by_text("Pictures that look alike").click()
    expect(page.get_by_text("another face in the same picture: compare")).to_be_visible()
    expect(page.get_by_text("of a partner")).to_be_visible()
    page.locator(f"a[href*='/beside/{swapped}']").click()

    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()
    expect(page.get_by_text("3 of 256 bits differ.")).to_be_visible()
    expect(page.get_by_text("Deepfake, by Ben Okafor").first).to_be_visible()
    row = page.get_by_role("row", name="Decision")
    expect(row).to_contain_text("differs")
    expect(row).to_contain_text("Not decided")
    reveal = page.get_by_role("link", name="Reveal both")
    if reveal.count():
        reveal.click()
    for image in page.locator(".stage img").all():
        assert image.evaluate("(img) => img.decode().then(() => img.naturalWidth)") == 327
    no_violations(page)


def test_a_campaign_is_decided_together_and_each_case_keeps_its_record(
    sit: Sit, team: Team, cases: Cases, owner: Database, client: BonaFide, source: str
) -> None:
    frame, face = new_id().int << 128, new_id().int
    ids = [looks_like(owner, cases.ready(source=source), frame ^ bit, face) for bit in (0, 1, 3)]
    page = sit(team.lin).open(f"/queue?source={source}")
    lines = page.locator("tr[data-row]")
    expect(lines).to_have_count(1)

    page.get_by_role("link", name="2 more that look alike").click()
    expect(lines).to_have_count(3)
    page.get_by_label("Choose all on this page").check()
    page.get_by_label("chosen: decide as").select_option("deepfake")
    page.get_by_role("button", name="Continue…").click()
    page.get_by_label("Reason").fill("one picture, flagged three times")
    no_violations(page)
    page.get_by_role("button", name="Decide all 3").click()

    expect(page.get_by_role("heading", name="3 of 3 decided")).to_be_visible()
    decisions = [client.case(case_id).decision for case_id in ids]
    assert {one.outcome for one in decisions if one} == {Outcome.DEEPFAKE}
    assert len({one.id for one in decisions if one}) == 3


@pytest.fixture
def certificate(owner: Database, cases: Cases, chosen: Settings, team: Team, source: str) -> Iterator[int]:
    """One that twelve blind judgements bear out, turned off again for other tests."""
    judge_blind(owner, cases, chosen, team, source, [Outcome.BONA_FIDE] * 12)
    now = datetime.now(UTC)
    since, until = now - timedelta(days=1), now + timedelta(minutes=1)
    with owner.transaction() as session:
        found = zones.seek(session, source, None, PROMISE, since=since, until=until, blind_share=0.0)
        number = zones.issue(session, source, None, found, since=since, until=until, actor="operator")
    yield number
    with owner.transaction() as session:
        zones.stop_using(session, number, actor="operator")


def judge_blind(
    owner: Database, cases: Cases, chosen: Settings, team: Team, source: str, outcomes: list[Outcome]
) -> None:
    review = Review(owner, chosen)
    for outcome in outcomes:
        case_id = clear(cases, source, blind=True)
        claim = review.claim(team.rosa, case_id)
        review.judge_blind(team.rosa, case_id, outcome)
        judgement = Judgement(outcome, reason="as I said")
        review.decide(team.rosa, case_id, token=claim.token, version=3, judgement=judgement)


def test_a_certificate_is_turned_on_closes_cases_fails_its_audit_and_is_revoked(
    sit: Sit,
    team: Team,
    cases: Cases,
    owner: Database,
    client: BonaFide,
    chosen: Settings,
    certificate: int,
    source: str,
) -> None:
    page = sit(team.ada).open("/certificates")
    card = page.get_by_role("region", name=f"Certificate {certificate}", exact=True)
    expect(card).to_contain_text("not used")
    card.get_by_role("button", name="Use it").click()
    expect(card).to_contain_text("Stop using it")
    no_violations(page)

    card.get_by_role("button", name="Let it close cases as bona fide").click()
    expect(card.get_by_role("button", name="Stop closing cases")).to_be_visible()
    with owner.transaction() as session:
        zones.audit(session, now=datetime.now(UTC))
    case_id = clear(cases, source)
    assert Review(owner, chosen).close_by_certificate() == 1
    closed = client.case(case_id)
    assert (closed.state, closed.decision and closed.decision.outcome) == (
        CaseState.DECIDED,
        Outcome.BONA_FIDE,
    )
    case_page = sit(team.rosa).open(f"/cases/{case_id}")
    expect(case_page.get_by_text(f"certificate {certificate}").first).to_be_attached()

    judge_blind(owner, cases, chosen, team, source, [Outcome.DEEPFAKE] * 7)
    with owner.transaction() as session:
        assert [one.id for one in zones.audit(session, now=datetime.now(UTC))] == [certificate]
    page.reload()

    expect(card).to_contain_text("revoked")
    expect(card).to_contain_text("7 were errors: the bound does not hold")
    expect(card.get_by_role("button")).to_have_count(0)
    card.get_by_text("What was done with it").click()
    expect(card.get_by_role("listitem")).to_have_count(4)
    expect(card).to_contain_text("Turned on")
    expect(card).to_contain_text("by Ada Byron")
    expect(card).to_contain_text("The chain of this log holds.")
    no_violations(page)


def test_a_lead_sees_certificates_and_has_no_switch(sit: Sit, team: Team, certificate: int) -> None:
    page = sit(team.lin).open("/certificates")

    card = page.get_by_role("region", name=f"Certificate {certificate}", exact=True)
    expect(card).to_contain_text("at most 40 % are not bona fide")
    expect(card.get_by_role("button")).to_have_count(0)
