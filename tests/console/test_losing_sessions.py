"""A session that ends in the middle of a form loses nothing: words, case and choice are there afterwards."""

from uuid import UUID

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import text

from moderation.database.connection import Database
from moderation.database.review import decisions_of
from moderation.local import System
from moderation.people import Person
from tests.console.conftest import PASSWORD, Cases, Sit, Team

WORDS = "می‌بینم: the seam is 🏳️‍🌈 visible"


def _end_sessions(owner: Database, person: Person) -> None:
    with owner.transaction() as session:
        session.execute(text("DELETE FROM sign_ins WHERE person_id = :p"), {"p": person.id})


def _sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def _filled_in(page: Page) -> None:
    page.get_by_role("button", name="Claim this case").click()
    expect(page.locator("#claim")).to_contain_text("Yours")
    page.get_by_role("radio", name="Deepfake").check()
    page.get_by_label("Technique, when").select_option("FS")
    page.get_by_label("Reason").fill(WORDS)
    page.get_by_label("Policy").fill("Rule 7")


def _expect_filled_in(page: Page) -> None:
    expect(page.locator("#claim")).to_contain_text("Yours")
    expect(page.get_by_role("radio", name="Deepfake")).to_be_checked()
    expect(page.get_by_label("Technique, when")).to_have_value("FS")
    expect(page.get_by_label("Reason")).to_have_value(WORDS)
    expect(page.get_by_label("Policy")).to_have_value("Rule 7")


def _expect_decided(page: Page, owner: Database, case_id: UUID) -> None:
    expect(page.locator("[data-toast]")).to_contain_text("Decided: Deepfake: face swapping")
    with owner.transaction() as session:
        assert [decision.reason for decision in decisions_of(session, case_id)] == [WORDS]


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_whoever_signs_in_anew_finds_the_form_as_it_was(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str, scripts: bool
) -> None:
    case_id = cases.ready(source=source)
    page = sit(team.rosa, java_script_enabled=scripts).open(f"/cases/{case_id}")
    _filled_in(page)
    _end_sessions(owner, team.rosa)

    page.get_by_role("button", name="Decide, and next").click()
    expect(page.get_by_text("what you had filled in is kept")).to_be_visible()
    _sign_in(page, team.rosa.email, "not the password")
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    _sign_in(page, team.rosa.email)

    _expect_filled_in(page)
    with owner.transaction() as session:
        assert decisions_of(session, case_id) == []
    page.get_by_role("button", name="Decide, and next").click()
    _expect_decided(page, owner, case_id)


def test_whoever_signs_in_anew_in_another_tab_goes_on_in_this_one(
    sit: Sit, team: Team, cases: Cases, owner: Database, system: System, source: str
) -> None:
    case_id = cases.ready(source=source)
    desk = sit(team.rosa)
    page = desk.open(f"/cases/{case_id}")
    _filled_in(page)
    _end_sessions(owner, team.rosa)
    other = desk.context.new_page()
    other.goto(f"{system.url}/queue")
    _sign_in(other, team.rosa.email)
    expect(other.get_by_role("heading", name="Queue")).to_be_visible()

    page.get_by_role("button", name="Decide, and next").click()

    _expect_decided(page, owner, case_id)


def test_what_was_filled_in_is_there_in_another_tab_too(
    sit: Sit, team: Team, cases: Cases, system: System, source: str
) -> None:
    case_id = cases.ready(source=source)
    desk = sit(team.rosa)
    page = desk.open(f"/cases/{case_id}")
    with page.expect_response(lambda reply: reply.url.endswith("/draft") and reply.status == 204):
        _filled_in(page)

    other = desk.context.new_page()
    other.goto(f"{system.url}/cases/{case_id}")

    _expect_filled_in(other)
    expect(other.get_by_text("What you had filled in is kept here")).to_be_visible()


def test_a_page_that_notices_says_so_and_leads_nowhere(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}")
    _filled_in(page)
    _end_sessions(owner, team.rosa)

    page.get_by_placeholder("Your own question").fill("Is it her?")
    page.get_by_placeholder("Your own question").press("Enter")

    expect(page.get_by_text("You are signed out.")).to_be_visible()
    _expect_filled_in(page)
    expect(page.get_by_placeholder("Your own question")).to_have_value("Is it her?")


def test_the_case_that_somebody_else_has_by_then_keeps_the_words(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    page = sit(team.rosa).open(f"/cases/{case_id}")
    _filled_in(page)
    _end_sessions(owner, team.rosa)
    with owner.transaction() as session:
        session.execute(text("UPDATE claims SET expires_at = now() WHERE case_id = :c"), {"c": case_id})
    ben = sit(team.ben).open(f"/cases/{case_id}")
    ben.get_by_role("button", name="Claim this case").click()
    expect(ben.locator("#claim")).to_contain_text("Yours")
    expect(ben.get_by_label("Reason")).to_have_value("")

    page.get_by_role("button", name="Decide, and next").click()
    _sign_in(page, team.rosa.email)

    expect(page.locator("#claim")).to_contain_text("Ben Okafor has it")
    expect(page.get_by_text(WORDS)).to_be_visible()


def test_what_somebody_had_filled_in_is_shown_to_nobody_else_who_signs_in_there(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}")
    _filled_in(page)
    _end_sessions(owner, team.rosa)

    page.get_by_role("button", name="Decide, and next").click()
    _sign_in(page, team.ben.email)

    expect(page.locator("summary", has_text="Ben Okafor")).to_be_visible()
    expect(page.locator("body")).not_to_contain_text("the seam is")


def test_a_form_of_another_page_is_shown_once_more_and_sent_by_hand(
    sit: Sit, team: Team, owner: Database, system: System
) -> None:
    page = sit(team.ada).open("/people")
    page.get_by_label("Name").fill("Grace Hopper")
    page.get_by_label("Email").fill("grace@example.org")
    _end_sessions(owner, team.ada)

    page.get_by_role("button", name="Add", exact=True).click()
    _sign_in(page, team.ada.email)

    expect(page.get_by_role("heading", name="You are signed in again")).to_be_visible()
    expect(page.get_by_text("Grace Hopper")).to_be_visible()
    with owner.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM people WHERE email = 'grace@example.org'")) == 0
    page.get_by_role("button", name="Send it now").click()
    expect(page.get_by_text("The first password of")).to_contain_text("grace@example.org")


def test_two_tabs_to_sign_in_at_both_work(sit: Sit, team: Team, system: System) -> None:
    desk = sit(team.ben)
    desk.context.clear_cookies()
    first, second = desk.page, desk.context.new_page()
    for page in (first, second):
        page.goto(f"{system.url}/preferences")

    _sign_in(first, team.ben.email)
    expect(first.get_by_role("heading", name="Preferences")).to_be_visible()
    _sign_in(second, team.ben.email)

    expect(second.get_by_role("heading", name="Preferences")).to_be_visible()
