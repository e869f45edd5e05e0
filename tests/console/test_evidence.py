"""The evidence card: facts beside the verdict, in words, with what each cannot tell."""

from dataclasses import replace
from uuid import UUID

from playwright.sync_api import expect

from moderation.analysis import Label, Verdict
from moderation.database.connection import Database
from moderation.evidence.rows import record_evidence
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Strength
from tests.builders import new_id
from tests.console.conftest import Cases, Sit, Team, an_analysis_of

BONA_FIDE = Verdict(Label.BONA_FIDE, score=0.08, margin=-2.4, answer_mass=0.99, calibrated=True)
EVIL = "<img src=x onerror=\"document.title='owned'\">"
FOUND = Evidence(
    (
        Fact(FactKind.JPEG, Strength.CONTEXT, {"quality": 85, "tables": "standard", "encoder": "libjpeg"}),
        Fact(FactKind.SOFTWARE, Strength.CONTEXT, {"programs": (EVIL,), "changes_faces": False}),
        Fact(
            FactKind.SOURCE_TYPE,
            Strength.DECLARED,
            {"source_types": ("trainedAlgorithmicMedia",)},
            ClaimedOrigin.SYNTHETIC,
        ),
    )
)


def declared_ai_made(cases: Cases, owner: Database, source: str, *, blind: bool = False) -> UUID:
    """A case that its file declares AI-made and the model calls bona fide."""
    found = an_analysis_of(new_id().bytes)
    (face,) = found.faces
    analysis = replace(found, verdict=BONA_FIDE, faces=(replace(face, verdict=BONA_FIDE, rationale=()),))
    case_id = cases.ready(source=source, analysis=analysis, blind=blind)
    with owner.transaction() as session:
        record_evidence(session, case_id, analysis.picture.sha256, FOUND, gatherer="1")
    return case_id


def test_the_card_says_each_fact_with_what_it_cannot_tell_and_a_conflict_with_the_verdict(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = declared_ai_made(cases, owner, source)

    page = sit(team.rosa).open(f"/cases/{case_id}")

    card = page.get_by_role("region", name="Evidence")
    expect(card).to_contain_text("Declared AI-made, wholly or in part.")
    expect(card).to_contain_text("That does not fit what the model says.")
    first = card.get_by_role("listitem").first
    expect(first).to_contain_text("The file says that it was made by a generative model.")
    expect(first).to_contain_text("One edit of the file's text writes it or takes it away.")
    expect(first).to_contain_text("may be disclosed")
    expect(card.get_by_text("JPEG of quality 85")).to_be_hidden()
    card.get_by_text("About the file 2").click()
    expect(card.get_by_text("JPEG of quality 85, written by an ordinary encoder.")).to_be_visible()
    expect(card).to_contain_text("<img src=x")
    assert page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0


def test_who_judges_first_sees_the_facts_and_not_whether_they_fit_the_verdict(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = declared_ai_made(cases, owner, source, blind=True)

    page = sit(team.rosa).open(f"/cases/{case_id}")

    card = page.get_by_role("region", name="Evidence")
    expect(card).to_contain_text("Declared AI-made")
    expect(card).not_to_contain_text("does not fit")
    expect(page.get_by_text("bona fide", exact=False).and_(page.locator(".headline"))).to_have_count(0)


def test_the_views_of_a_region_are_made_on_request_and_called_aids(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = declared_ai_made(cases, owner, source)
    page = sit(team.rosa).open(f"/cases/{case_id}")
    card = page.get_by_role("region", name="Evidence")
    card.get_by_text("Two views, as aids").click()
    expect(card.locator("canvas")).to_be_hidden()

    for name in ("Noise", "Error levels"):
        card.get_by_role("button", name=name).click()
        expect(card.get_by_role("status")).to_contain_text(f"{name}:")
        expect(card.locator("canvas")).to_be_visible()
        light = page.evaluate(
            """() => { const c = document.querySelector("canvas.aid");
                       const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
                       return [c.width, Math.max(...d.filter((_, i) => i % 4 === 0))]; }"""
        )
        assert light[0] > 8
        assert light[1] == 255
    expect(card).to_contain_text("neither tells forged from bona fide")


def test_a_case_without_evidence_has_no_card(sit: Sit, team: Team, cases: Cases, source: str) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}")

    expect(page.get_by_role("region", name="Picture", exact=True)).to_be_visible()
    expect(page.get_by_role("region", name="Evidence")).to_have_count(0)
