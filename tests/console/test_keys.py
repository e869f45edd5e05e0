"""A key acts only when nothing else can be meant: words that somebody types decide nothing, in any script."""

from collections.abc import Callable
from uuid import UUID

import pytest
from playwright.sync_api import Locator, Page, expect

from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.database.review import decisions_of
from moderation.decisions import Outcome
from tests.console.conftest import Cases, Sit, Team

#: Longer than a letter waits to be alone, and than keys are at rest after typing. Milliseconds of the page's clock.
ALONE, REST = 300, 1100


def _mine(sit: Sit, team: Team, case_id: UUID) -> Page:
    """The case in front of Rosa, and the clock of its page in our hands."""
    page = sit(team.rosa).open(f"/cases/{case_id}")
    page.get_by_role("button", name="Claim this case").click()
    expect(page.locator("#claim")).to_contain_text("Yours")
    page.clock.install()
    page.reload()
    expect(page.locator("#claim")).to_contain_text("Yours")
    return page


def _chosen(page: Page) -> Locator:
    return page.locator("input[name=outcome]:checked")


def _decided(owner: Database, case_id: UUID) -> list[Outcome]:
    with owner.transaction() as session:
        return [decision.outcome for decision in decisions_of(session, case_id)]


def test_a_question_typed_where_there_is_no_field_decides_nothing(
    sit: Sit, team: Team, cases: Cases, client: BonaFide, owner: Database, source: str
) -> None:
    case_id = cases.submitted("truncated.jpg", source=source)
    page = _mine(sit, team, case_id)

    page.keyboard.press("/")
    page.keyboard.type("the border")
    for letter in "real":  # slowly, too
        page.keyboard.press(letter)
        page.clock.run_for(REST)
    page.keyboard.press("Enter")

    expect(page.get_by_text("Nothing was asked, and nothing was decided.")).to_be_visible()
    expect(_chosen(page)).to_have_count(0)
    assert _decided(owner, case_id) == []
    page.keyboard.press("u")
    page.clock.run_for(ALONE)
    expect(_chosen(page)).to_have_value("cannot_tell")


def test_the_page_says_why_nothing_can_be_asked(sit: Sit, team: Team, cases: Cases, source: str) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source, blind=True)}")

    page.keyboard.press("/")

    expect(page.locator("[data-says]")).to_contain_text("once you have judged")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(page.locator("#claim")).to_contain_text("Yours")


@pytest.mark.parametrize("words", ["the border", "fake", "of", "no border", "For real", "r e", "bona fide"])
def test_words_that_are_typed_act_on_nothing(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str, words: str
) -> None:
    case_id = cases.ready(source=source)
    page = _mine(sit, team, case_id)

    page.keyboard.type(words)
    page.keyboard.press("Enter")

    expect(page.locator("[data-says]")).to_be_visible()
    page.clock.run_for(ALONE)
    expect(_chosen(page)).to_have_count(0)
    expect(page.locator("[data-stage]")).to_have_class("stage blurred grey")
    assert _decided(owner, case_id) == []
    page.clock.run_for(REST)
    page.keyboard.press("f")
    page.clock.run_for(ALONE)
    expect(_chosen(page)).to_have_value("deepfake")


def test_a_reason_that_is_typed_at_once_after_its_key_is_in_its_field(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    page = _mine(sit, team, cases.ready(source=source))

    page.keyboard.press("w")
    page.keyboard.type("seam under the ear")

    expect(page.get_by_label("Reason")).to_have_value("seam under the ear")
    page.clock.run_for(ALONE)
    expect(_chosen(page)).to_have_count(0)


def test_a_technique_is_chosen_at_once_after_its_key(sit: Sit, team: Team, cases: Cases, source: str) -> None:
    page = _mine(sit, team, cases.ready(source=source))
    page.keyboard.press("f")
    page.clock.run_for(ALONE)

    page.keyboard.press("t")
    page.keyboard.type("Face sw")

    expect(page.get_by_label("Technique, when")).to_have_value("FS")


def test_a_letter_before_the_key_of_a_field_acts_unless_a_word_goes_on(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    page = _mine(sit, team, cases.ready(source=source))

    page.keyboard.press("e")
    page.keyboard.press("w")
    page.keyboard.type("er")
    page.clock.run_for(ALONE)

    expect(page.get_by_label("Reason")).to_have_value("er")
    expect(page.locator("[data-says]")).to_be_visible()
    expect(_chosen(page)).to_have_count(0)
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.keyboard.press("w")
    page.clock.run_for(ALONE)
    page.keyboard.type(" two")
    expect(page.get_by_label("Reason")).to_have_value("er two")
    expect(_chosen(page)).to_have_value("escalate")


def test_a_letter_and_enter_decide_at_once(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    page = _mine(sit, team, case_id)

    page.keyboard.press("f")
    page.keyboard.press("Enter")

    expect(page.locator("[data-toast]")).to_contain_text("Decided: Deepfake")
    assert _decided(owner, case_id) == [Outcome.DEEPFAKE]


def _pressed(page: Page) -> Callable[[str, str, int], None]:
    """Presses a key of any layout: what it writes, where it lies, and whether Shift is held."""
    devtools = page.context.new_cdp_session(page)

    def press(writes: str, lies: str, modifiers: int = 0) -> None:
        key = {"key": writes, "code": lies, "modifiers": modifiers}
        devtools.send("Input.dispatchKeyEvent", {"type": "keyDown", "text": writes, **key})
        devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})

    return press


@pytest.mark.parametrize(
    ("writes", "lies", "outcome"),
    [
        pytest.param("а", "KeyF", "deepfake", id="Cyrillic"),
        pytest.param("к", "KeyR", "bona_fide", id="Cyrillic, another"),
        pytest.param("φ", "KeyF", "deepfake", id="Greek"),
        pytest.param("ρ", "KeyR", "bona_fide", id="Greek, another"),
        pytest.param("כ", "KeyF", "deepfake", id="Hebrew"),
        pytest.param("F", "KeyF", "deepfake", id="Caps Lock"),
        pytest.param("А", "KeyF", "deepfake", id="Caps Lock on a Cyrillic layout"),
        pytest.param("ｆ", "KeyF", "deepfake", id="full width"),
        pytest.param("f", "KeyU", "deepfake", id="Latin letters go by what they write: Dvorak"),
    ],
)
def test_keys_work_on_every_layout(
    sit: Sit, team: Team, cases: Cases, source: str, writes: str, lies: str, outcome: str
) -> None:
    page = _mine(sit, team, cases.ready(source=source))

    _pressed(page)(writes, lies, 0)
    page.clock.run_for(ALONE)

    expect(_chosen(page)).to_have_value(outcome)


def test_a_word_in_another_script_is_a_word_too(sit: Sit, team: Team, cases: Cases, source: str) -> None:
    page = _mine(sit, team, cases.ready(source=source))
    press = _pressed(page)

    for writes, lies in (("ф", "KeyA"), ("а", "KeyF"), ("к", "KeyR"), ("т", "KeyN")):
        press(writes, lies, 0)
    page.clock.run_for(ALONE)

    expect(_chosen(page)).to_have_count(0)


def test_a_case_that_nobody_could_look_at_is_called_nothing_without_a_reason(
    sit: Sit, team: Team, cases: Cases, client: BonaFide, owner: Database, source: str
) -> None:
    case_id = cases.submitted("truncated.jpg", source=source)
    page = _mine(sit, team, case_id)

    page.keyboard.press("r")
    page.keyboard.press("Enter")

    expect(page.get_by_role("alert")).to_contain_text("Say how you know")
    expect(page.get_by_label("Reason")).to_be_focused()
    expect(_chosen(page)).to_have_value("bona_fide")
    assert _decided(owner, case_id) == []


def test_a_picture_that_this_browser_cannot_show_is_called_nothing_without_a_reason(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    desk = sit(team.rosa)
    desk.page.route("**/picture", lambda route: route.abort())
    page = desk.open(f"/cases/{case_id}")
    page.get_by_role("button", name="Claim this case").click()
    expect(page.get_by_text("This picture cannot be shown here.")).to_be_visible()

    page.get_by_role("radio", name="Deepfake").check()
    page.get_by_role("button", name="Decide, and next").click()

    expect(page.get_by_role("alert")).to_contain_text("Say how you know")
    assert _decided(owner, case_id) == []


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("Bona fide", "Say why: you decide bona fide, and the verdict is deepfake."),
        ("Cannot tell", "Say why you cannot tell: the verdict is deepfake."),
        ("Escalate", "Say why you escalate: whoever takes the case next starts from your words."),
    ],
)
def test_what_is_missing_is_said_in_words_that_fit_the_choice_and_has_the_focus(
    sit: Sit, team: Team, cases: Cases, source: str, choice: str, said: str
) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}")
    page.get_by_role("button", name="Claim this case").click()
    page.get_by_role("radio", name=choice).check()

    page.get_by_role("button", name="Decide, and next").click()

    expect(page.get_by_role("alert")).to_have_text(said)
    expect(page.get_by_label("Reason")).to_be_focused()


def test_one_button_at_a_time_has_the_key_to_undo(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    decided = cases.ready(source=source, priority=50)
    cases.ready(source=source, blind=True)
    page = sit(team.rosa).open(f"/queue?source={source}")
    page.get_by_role("button", name="Claim next").click()
    page.get_by_role("radio", name="Deepfake").check()
    page.get_by_role("button", name="Decide, and next").click()
    expect(page.get_by_role("heading", name="Judge first")).to_be_visible()
    expect(page.locator("[data-toast] [data-key=z]")).to_be_visible()

    page.get_by_role("radio", name="Bona fide").check()
    page.get_by_role("button", name="This is what I see").click()
    expect(page.get_by_role("button", name="Take it back")).to_be_visible()
    expect(page.locator("[data-toast]").get_by_role("button", name="Undo")).to_be_visible()
    expect(page.locator("[data-key=z]")).to_have_count(1)
    page.keyboard.press("z")

    expect(page.get_by_role("button", name="This is what I see")).to_be_visible()
    expect(page.locator("[data-toast] [data-key=z]")).to_be_visible()
    assert _decided(owner, decided) == [Outcome.DEEPFAKE]
    with owner.transaction() as session:
        assert [one.undone_at for one in decisions_of(session, decided)] == [None]


def test_a_case_that_somebody_holds_is_not_chosen_and_says_who(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    case_id = cases.ready(source=source)
    ben = sit(team.ben).open(f"/cases/{case_id}")
    ben.get_by_role("button", name="Claim this case").click()
    expect(ben.locator("#claim")).to_contain_text("Yours")
    page = sit(team.lin).open(f"/queue?source={source}")

    page.keyboard.press("ArrowDown")
    page.keyboard.press("x")

    expect(page.locator("[data-says]")).to_contain_text("Ben Okafor")


def test_the_key_to_undo_takes_back_all_that_was_decided_together(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    made = [cases.ready(source=source) for _ in range(2)]
    page = sit(team.lin).open(f"/queue?source={source}")
    page.locator("[data-select-all]").check()
    page.get_by_role("button", name="Continue").click()
    page.get_by_label("Reason").fill("One campaign.")
    page.get_by_role("button", name="Decide all 2").click()
    page.get_by_role("link", name="Back to the queue").click()
    expect(page.locator("[data-toast]")).to_contain_text("2 cases")

    page.keyboard.press("z")

    expect(page.get_by_role("heading", name="Your decisions")).to_be_visible()
    with owner.transaction() as session:
        decisions = [one for case_id in made for one in decisions_of(session, case_id)]
    assert len(decisions) == 2
    assert all(one.undone_at is not None for one in decisions)
