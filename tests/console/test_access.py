"""Everybody can use it: axe finds nothing on any page, in light and dark, and 320 pixels are enough."""

from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from sqlalchemy import text

from moderation.analysis import Label
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.settings import Settings
from tests.builders import new_id
from tests.console.conftest import ON_TRIAL, Cases, Sit, Team, an_analysis_of, put_on_trial
from tests.integration.deciding import a_review, decide


@dataclass(frozen=True)
class Made:
    """A case of every kind, and an endpoint with a delivery."""

    rationale: UUID
    blind: UUID
    refused: UUID
    undetermined: UUID
    endpoint: UUID
    person: UUID

    def pages(self) -> dict[str, str]:
        return {
            "queue": "/queue?source=access",
            "empty queue": "/queue?source=nobody",
            "set aside": "/queue?source=access&aside=yes",
            "decided": "/queue?state=decided",
            "search": "/search",
            "found": "/search?q=access",
            "nothing found": "/search?q=nobody",
            "case": f"/cases/{self.rationale}",
            "blind case": f"/cases/{self.blind}",
            "refused case": f"/cases/{self.refused}",
            "case without a face": f"/cases/{self.undetermined}",
            "missing case": f"/cases/{new_id()}",
            "decisions": "/decisions",
            "insight": "/insight",
            "bundles": "/bundles",
            "compared bundles": f"/bundles?{urlencode({'first': 'scripted', 'second': ON_TRIAL})}",
            "people": "/people",
            "shut out": f"/people/{self.person}/disable",
            "certificates": "/certificates",
            "webhooks": "/webhooks",
            "webhook": f"/webhooks/{self.endpoint}",
            "preferences": "/preferences",
        }


@pytest.fixture(scope="module")
def made(cases: Cases, team: Team, owner: Database) -> Made:
    put_on_trial(owner)
    for label in (Label.DEEPFAKE, Label.BONA_FIDE):
        cases.compared(label, source="access")
    endpoint = new_id()
    long = "a-name-without-any-place-to-break-it-" * 4
    made = Made(
        rationale=cases.ready(source="access", reason=long),
        blind=cases.ready(source="access", blind=True),
        refused=cases.submitted("truncated.jpg", source="access"),
        undetermined=cases.submitted("no-face.jpg", source="access"),
        endpoint=endpoint,
        person=team.ben.id,
    )
    with owner.transaction() as session:
        session.execute(
            text("""
                INSERT INTO endpoints (id, url, kinds, secrets) VALUES (:e, :url, '{case.decided}', '{whsec_x}')
            """),
            {"e": endpoint, "url": f"https://example.org/{long}"},
        )
        session.execute(
            text("""
                INSERT INTO deliveries (id, endpoint_id, case_id, kind, body, dead_at, attempts, last_error)
                VALUES (gen_random_uuid(), :e, :c, 'case.decided', '{}', now(), 9, 'no answer')
            """),
            {"e": endpoint, "c": made.rationale},
        )
        session.execute(
            text("""
                INSERT INTO questions (id, case_id, asked_by, question, answer, bundle, answered_at)
                VALUES (gen_random_uuid(), :c, :by, 'Is it?', 'It may be.', 'mini', now())
            """),
            {"c": made.rationale, "by": team.rosa.actor},
        )
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(sit: Sit, team: Team, made: Made, scheme: str) -> None:
    desk = sit(team.ada, color_scheme=scheme)
    axe = Axe()
    found: dict[str, str] = {}

    for name, path in made.pages().items():
        page = desk.open(path)
        if name == "case":
            if page.get_by_role("button", name="Claim this case").count():
                page.get_by_role("button", name="Claim this case").click()
                expect(page.locator("#claim")).to_contain_text("Yours")
            for fold in page.locator(".folds summary").all():
                fold.click()
            page.keyboard.press("1")
            page.keyboard.press("f")
        results = axe.run(page)
        if results.violations_count:
            found[name] = results.generate_report()

    assert found == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_the_door(sit: Sit, team: Team, scheme: str) -> None:
    desk = sit(team.ada, color_scheme=scheme)
    desk.context.clear_cookies()

    results = Axe().run(desk.open("/sign-in"))

    assert results.violations_count == 0, results.generate_report()


def test_no_page_scrolls_sideways_at_320_pixels(sit: Sit, team: Team, made: Made) -> None:
    desk = sit(team.ada, viewport={"width": 320, "height": 640})

    widths = {
        name: desk.open(path).evaluate("document.documentElement.scrollWidth")
        for name, path in made.pages().items()
    }

    assert {name: width for name, width in widths.items() if width > 320} == {}


def test_on_a_narrow_screen_everything_that_can_be_done_to_people_is_in_view(sit: Sit, team: Team) -> None:
    page = sit(team.ada, viewport={"width": 320, "height": 640}).open("/people")

    beyond = page.evaluate("""
        [...document.querySelectorAll("main a, main button, main select")]
            .filter((one) => one.getBoundingClientRect().right > 320)
            .map((one) => one.textContent.trim())
    """)

    assert beyond == []


def test_the_whole_case_is_in_view_on_a_desk(sit: Sit, team: Team, made: Made) -> None:
    page = sit(team.ada, viewport={"width": 1440, "height": 900}).open(f"/cases/{made.rationale}")

    expect(page.get_by_role("heading", name="Likely deepfake")).to_be_in_viewport()
    assert page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]") == [
        900,
        1440,
    ]


def test_a_case_with_much_to_read_scrolls_in_its_columns_and_not_as_a_page(
    sit: Sit, team: Team, cases: Cases
) -> None:
    much = an_analysis_of(b"much to read", text="The corner of the mouth is smeared. " * 60)
    case_id = cases.ready(source="access", analysis=much)

    page = sit(team.ada, viewport={"width": 1440, "height": 900}).open(f"/cases/{case_id}")

    expect(page.get_by_label("Your question")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollHeight") == 900


def test_a_case_of_ones_own_that_was_appealed_does_not_scroll_sideways(
    sit: Sit, team: Team, cases: Cases, owner: Database, chosen: Settings
) -> None:
    review = a_review(owner, chosen)
    case_id = cases.ready(source="access")
    decide(review, owner, team.rosa, case_id, Outcome.BONA_FIDE)
    review.appeal(case_id, "It is not her.", actor="platform:access")

    page = sit(team.rosa, viewport={"width": 320, "height": 640}).open(f"/cases/{case_id}")

    expect(page.locator("#claim .badge")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_a_source_without_a_place_to_break_leaves_room_for_the_other_columns(
    sit: Sit, team: Team, cases: Cases
) -> None:
    source = "s" * 90
    cases.ready(source=source)

    page = sit(team.lin).open(f"/queue?source={source}")

    cell = page.locator("[data-row] .holder-cell").first
    expect(cell).to_have_text("nobody")
    assert (
        cell.evaluate("""cell => {
        const words = document.createRange();
        words.selectNodeContents(cell.firstElementChild);
        return words.getClientRects().length;
    }""")
        == 1
    )
    assert page.locator("[data-row] .source-cell bdi").first.evaluate("name => name.offsetWidth") < 300


def test_what_can_be_undone_covers_nothing_of_the_case(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    first, second = cases.ready(source=source), cases.ready(source=source)
    desk = sit(team.ben)
    page = desk.open(f"/cases/{first}")
    page.get_by_role("button", name="Claim this case").click()
    page.get_by_role("radio", name="Deepfake").check()
    page.get_by_role("button", name="Decide, and next").click()
    expect(page.locator("[data-toast]")).to_be_visible()

    page = desk.open(f"/cases/{second}")

    caption, toast = page.locator(".caption").bounding_box(), page.locator("[data-toast]").bounding_box()
    assert caption is not None
    assert toast is not None
    assert caption["y"] + caption["height"] <= toast["y"]


def test_what_is_chosen_in_the_preferences_overrules_the_browsers_colours(sit: Sit, team: Team) -> None:
    desk = sit(team.ben, color_scheme="light")
    light = "getComputedStyle(document.body).backgroundColor"
    page = desk.open("/preferences")
    before = page.evaluate(light)

    page.get_by_label("Colours", exact=True).select_option("dark")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()

    assert page.evaluate(light) != before
    page.get_by_label("Colours", exact=True).select_option("auto")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert page.evaluate(light) == before
