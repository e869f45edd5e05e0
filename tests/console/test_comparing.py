"""A lead looks at two bundles side by side, in a real browser."""

import re

from playwright.sync_api import expect

from moderation.analysis import Label
from moderation.database.connection import Database
from tests.console.conftest import ON_TRIAL, Cases, Sit, Team, put_on_trial


def test_a_lead_chooses_two_bundles_and_follows_a_disagreement_without_scripts(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    put_on_trial(owner)
    cases.compared(Label.DEEPFAKE, source=source)
    differs = cases.compared(Label.BONA_FIDE, source=source)
    page = sit(team.lin, java_script_enabled=False).open("/queue")

    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Bundles").click()
    expect(page.get_by_role("row", name=re.compile("scripted 2.*on trial"))).to_be_visible()
    page.locator("select[name=first]").select_option("scripted")
    page.locator("select[name=second]").select_option(ON_TRIAL)
    page.locator("select[name=days]").select_option("1")
    page.get_by_role("button", name="Compare").click()

    expect(page.get_by_text("pictures that both analysed")).to_be_visible()
    expect(page.locator(".figure", has_text="Same label")).to_contain_text(re.compile(r"of \d+"))
    expect(page.get_by_role("img", name="Pictures by how much the score shifts")).to_be_visible()
    page.get_by_role("region", name="Where they differ").get_by_role("link", name=str(differs)[-8:]).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(differs)[-8:])


def test_a_reviewer_is_not_led_there(sit: Sit, team: Team) -> None:
    page = sit(team.rosa).open("/queue")

    expect(page.get_by_role("link", name="Queue")).to_be_visible()
    expect(page.get_by_role("link", name="Bundles")).to_have_count(0)
    page = sit(team.rosa).open("/bundles")
    expect(page.get_by_role("heading", name="Not allowed")).to_be_visible()
