"""What a reviewer does all day, in a real browser, with a real worker behind it."""

import re
from uuid import UUID

import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import text

from moderation.cases import CaseState
from moderation.client import BonaFide
from moderation.database.cases import find_case
from moderation.database.connection import Database
from moderation.database.review import decisions_of
from moderation.decisions import Answer, Outcome
from moderation.local import System
from tests.console.conftest import PASSWORD, Cases, Sit, Team

#: What somebody did to see the picture; that it was sent to them, or a small one in a list, are other notes.
KINDS_OF_VIEW = text(
    "SELECT kind FROM views WHERE case_id = :case AND kind NOT IN ('sent', 'thumbnail') ORDER BY id"
)


def _short(case_id: object) -> str:
    return str(case_id).replace("-", "")[-8:]


def _choose(page: Page, outcome: str) -> None:
    page.get_by_role("radio", name=outcome, exact=True).check()


def _toast(page: Page) -> Locator:
    """What was just decided, and that it can be undone."""
    return page.locator("[data-toast]")


def _sign_in(page: Page, url: str, email: str) -> None:
    page.goto(url)
    page.get_by_label("Email").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_signing_in_leads_to_the_page_that_was_wanted_and_signing_out_to_the_door(
    browser: object, system: System, team: Team, sit: Sit
) -> None:
    desk = sit(team.ben)
    desk.context.clear_cookies()

    _sign_in(desk.page, f"{system.url}/preferences", team.ben.email)
    expect(desk.page.get_by_role("heading", name="Preferences")).to_be_visible()

    desk.page.locator("summary", has_text="Ben Okafor").click()
    desk.page.get_by_role("button", name="Sign out").click()
    expect(desk.page.get_by_label("Email")).to_be_visible()
    desk.page.goto(f"{system.url}/queue")
    expect(desk.page.get_by_label("Email")).to_be_visible()


def test_an_uploaded_picture_is_claimed_revealed_asked_about_and_decided(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    """The whole road: intake, the worker with the shipped model, the queue, the case, its answer, the decision."""
    case_id = cases.submitted("portrait-1.jpg", source=source)
    page = sit(team.rosa).open(f"/queue?source={source}")

    page.get_by_role("button", name="Claim next").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(_short(case_id))
    expect(page.locator("#claim")).to_contain_text("Yours")
    stage = page.locator("[data-stage]")
    expect(stage).to_have_class(re.compile("blurred"))
    page.get_by_role("button", name="Reveal").click()
    expect(stage).not_to_have_class(re.compile("blurred"))
    assert page.locator("[data-image]").evaluate("image => image.naturalWidth") == 327

    page.get_by_role("button", name="The eyes?").click()
    expect(page.locator(".asked")).to_contain_text("eyes")
    expect(page.locator(".turns .answered").first).not_to_contain_text("is looking", timeout=30_000)

    _choose(page, "Cannot tell")
    page.get_by_label("Reason").fill("Too little to see.")
    page.get_by_role("button", name="Decide, and next").click()

    expect(_toast(page)).to_contain_text("Decided: Cannot tell")
    with owner.transaction() as session:
        (decision,) = decisions_of(session, case_id)
        kinds = session.scalars(KINDS_OF_VIEW, {"case": case_id}).all()
        asked = session.execute(
            text("SELECT answer, failure FROM questions WHERE case_id = :c"), {"c": case_id}
        ).one()
    assert (decision.outcome, decision.reason, decision.reviewer) == (
        Outcome.CANNOT_TELL,
        "Too little to see.",
        "Rosa Diaz",
    )
    assert list(kinds) == ["revealed"]
    # Of a reply that contradicts the verdict the page says that the model has no answer.
    assert asked.answer or asked.failure == "unreadable"


def test_from_the_door_to_a_decision_by_keyboard_alone(
    sit: Sit, system: System, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    desk = sit(team.ben)
    desk.context.clear_cookies()
    page, keys = desk.page, desk.page.keyboard
    page.goto(f"{system.url}/queue?source={source}")

    expect(page.get_by_label("Email")).to_be_focused()
    keys.type(team.ben.email)
    keys.press("Tab")
    keys.type(PASSWORD)
    keys.press("Enter")
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    keys.press("n")
    expect(page.get_by_role("heading", level=1)).to_contain_text(_short(case_id))
    page.wait_for_load_state()  # the script hears keys only when it has run

    stage = page.locator("[data-stage]")
    keys.down("Space")
    expect(stage).not_to_have_class(re.compile("blurred"))
    keys.up("Space")
    expect(stage).to_have_class(re.compile("blurred"))

    keys.press("1")
    expect(page.locator("[data-lens]")).to_be_visible()
    expect(page.locator("[data-lens-title]")).to_have_text("1. Mouth and Lips")
    keys.press("a")
    keys.press("2")
    keys.press("d")
    keys.press("Escape")
    expect(page.locator("[data-lens]")).to_be_hidden()
    keys.press("r")
    expect(page.get_by_role("radio", name="Bona fide")).to_be_checked()
    keys.press("f")
    expect(page.get_by_role("radio", name="Deepfake")).to_be_checked()
    keys.press("t")
    expect(page.get_by_label("Technique, when")).to_be_focused()
    keys.type("Face swapping")
    keys.press("Escape")
    keys.press("w")
    expect(page.get_by_label("Reason")).to_be_focused()
    keys.type("free keys: the seam is visible")
    keys.press("Escape")
    keys.press("Enter")

    expect(_toast(page)).to_contain_text("Decided: Deepfake: face swapping")
    with owner.transaction() as session:
        (decision,) = decisions_of(session, case_id)
    assert decision.reason == "free keys: the seam is visible"
    assert [(said.ordinal, said.answer) for said in decision.feedback] == [
        (1, Answer.AGREE),
        (2, Answer.DISAGREE),
    ]

    keys.press("z")
    expect(page.locator("#claim")).to_contain_text("Yours")
    expect(page.get_by_label("Reason")).to_have_value("free keys: the seam is visible")
    expect(page.get_by_role("radio", name="Deepfake")).to_be_checked()
    with owner.transaction() as session:
        (decision,) = decisions_of(session, case_id)
        case = find_case(session, case_id)
    assert decision.undone_at is not None
    assert case is not None
    assert case.state is CaseState.READY


def test_keys_are_silent_while_somebody_types_and_when_they_are_turned_off(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    case_id = cases.ready(source=source)
    desk = sit(team.ada)
    page = desk.open(f"/cases/{case_id}")
    page.keyboard.press("c")
    page.get_by_label("Reason").press_sequentially("fruit cake, z")
    expect(page.locator("#decide input[name=outcome]:checked")).to_have_count(0)
    expect(page.get_by_label("Reason")).to_have_value("fruit cake, z")

    page = desk.open("/preferences")
    page.get_by_label("Single keys act").uncheck()
    page.get_by_role("button", name="Save").click()
    page = desk.open(f"/cases/{case_id}")
    page.keyboard.press("f")
    page.keyboard.press("1")
    expect(page.locator("#decide input[name=outcome]:checked")).to_have_count(0)
    expect(page.locator("[data-lens]")).to_be_hidden()
    expect(page.locator("kbd").first).to_be_hidden()
    page.get_by_role("button", name="Release").click()

    page = desk.open("/preferences")
    page.get_by_label("Single keys act").check()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()


def test_an_artifact_is_followed_to_its_place_at_the_pictures_own_pixels(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    page = sit(team.rosa).open(f"/cases/{case_id}")

    page.get_by_role("button", name="Look at artifact 1").click()

    expect(page.locator('[data-mark="1"]')).to_have_class(re.compile("chosen"))
    expect(page.locator("[data-lens-scale]")).to_contain_text(re.compile(r"[234] × its own pixels"))
    # The whole is still blurred; the region under the lens is not, and holds the picture's own colours or greys.
    expect(page.locator("[data-stage]")).to_have_class(re.compile("blurred"))
    page.get_by_role("button", name="Zoom in").click()
    expect(page.locator("[data-zoom-says]")).to_contain_text("%")
    expect(page.locator("[data-stage]")).to_have_class(re.compile("zoomed"))
    page.get_by_role("button", name="Fit").click()
    expect(page.locator("[data-zoom-says]")).to_have_text("fit")
    page.get_by_role("button", name="Look at artifact 2").click()
    expect(page.locator("[data-lens-title]")).to_have_text("2. Overall")
    expect(page.get_by_text("No outline")).to_be_visible()
    with owner.transaction() as session:
        assert set(session.scalars(KINDS_OF_VIEW, {"case": case_id}).all()) == {"artifact"}


def test_how_one_sees_pictures_is_remembered_on_the_server_and_every_view_is_noted(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    page = sit(team.lin).open(f"/cases/{case_id}")
    with page.expect_response("**/preferences/picture"):
        page.keyboard.press("b")
    with page.expect_response("**/preferences/picture"):
        page.keyboard.press("g")

    elsewhere = sit(team.lin).open(f"/cases/{case_id}")

    stage = elsewhere.locator("[data-stage]")
    expect(stage).not_to_have_class(re.compile("blurred|grey"))
    with owner.transaction() as session:
        assert list(session.scalars(KINDS_OF_VIEW, {"case": case_id}).all()) == ["revealed", "shown"]
    with elsewhere.expect_response("**/preferences/picture"):
        elsewhere.keyboard.press("b")
    with elsewhere.expect_response("**/preferences/picture"):
        elsewhere.keyboard.press("g")


def _claimed_by_both(sit: Sit, team: Team, owner: Database, case_id: UUID) -> tuple[Page, Page]:
    """Rosa has the case open and filled in, but her claim ran out and Ben has it now."""
    rosa = sit(team.rosa).open(f"/cases/{case_id}")
    rosa.get_by_role("button", name="Claim this case").click()
    expect(rosa.locator("#claim")).to_contain_text("Yours")
    ben = sit(team.ben).open(f"/cases/{case_id}")
    expect(ben.locator("#claim")).to_contain_text("Rosa Diaz has it until")
    expect(ben.get_by_role("button", name="Decide, and next")).to_have_count(0)
    with owner.transaction() as session:
        session.execute(text("UPDATE claims SET expires_at = now() WHERE case_id = :c"), {"c": case_id})
    ben.reload()
    ben.get_by_role("button", name="Claim this case").click()
    expect(ben.locator("#claim")).to_contain_text("Yours")
    _choose(rosa, "Bona fide")
    rosa.get_by_label("Reason").fill("I see nothing wrong.")
    return rosa, ben


def test_who_has_lost_a_case_is_told_who_has_it_and_keeps_their_words(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    rosa, _ = _claimed_by_both(sit, team, owner, case_id)

    rosa.get_by_role("button", name="Decide, and next").click()

    expect(rosa.get_by_role("heading", level=1)).to_have_text("This case is not yours any more")
    expect(rosa.get_by_text("Ben Okafor has this case until")).to_be_visible()
    expect(rosa.get_by_text("I see nothing wrong.")).to_be_visible()
    with owner.transaction() as session:
        assert decisions_of(session, case_id) == []


def test_a_case_that_was_decided_meanwhile_says_what_happened_and_by_whom(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    rosa, ben = _claimed_by_both(sit, team, owner, case_id)
    _choose(ben, "Deepfake")
    ben.get_by_role("button", name="Decide, and next").click()
    expect(_toast(ben)).to_contain_text("Decided")

    rosa.get_by_role("button", name="Decide, and next").click()

    expect(rosa.get_by_role("heading", level=1)).to_have_text("The case moved on while you looked at it")
    expect(rosa.locator(".log")).to_contain_text("Decided by Ben Okafor")
    expect(rosa.get_by_text("I see nothing wrong.")).to_be_visible()
    with owner.transaction() as session:
        assert [decision.reviewer for decision in decisions_of(session, case_id)] == ["Ben Okafor"]


def test_a_decision_without_its_reason_comes_back_with_everything_else_still_filled_in(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    case_id = cases.ready(source=source)
    page = sit(team.rosa).open(f"/cases/{case_id}")
    page.get_by_role("button", name="Claim this case").click()
    _choose(page, "Bona fide")
    page.get_by_label("Policy").fill("Rule 7")
    page.get_by_role("radio", name="I do not see it").first.check()

    page.get_by_role("button", name="Decide, and next").click()

    expect(page.get_by_role("alert")).to_contain_text("Say why")
    expect(page.get_by_label("Policy")).to_have_value("Rule 7")
    expect(page.get_by_role("radio", name="Bona fide")).to_be_checked()
    expect(page.get_by_role("radio", name="I do not see it").first).to_be_checked()
    page.get_by_label("Reason").fill("The light is that of a flash.")
    page.get_by_role("button", name="Decide, and next").click()
    expect(_toast(page)).to_contain_text("Decided: Bona fide")


def test_what_is_skipped_is_given_back_with_the_reason_and_not_offered_again(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    page = sit(team.rosa).open(f"/queue?source={source}")
    page.get_by_role("button", name="Claim next").click()

    expect(page.locator("#claim")).to_contain_text("Yours")
    page.keyboard.press("k")
    page.get_by_label("Why not you").fill("I know this person.")
    page.get_by_role("button", name="Skip, and next").click()

    expect(page.get_by_text("no case here that you may take")).to_be_visible()
    with owner.transaction() as session:
        reasons = session.scalars(text("SELECT reason FROM skips WHERE case_id = :c"), {"c": case_id}).all()
    assert list(reasons) == ["I know this person."]
    ben = sit(team.ben).open(f"/queue?source={source}")
    ben.get_by_role("button", name="Claim next").click()
    expect(ben.get_by_role("heading", level=1)).to_contain_text(_short(case_id))


def test_a_blind_case_tells_nothing_of_the_verdict_until_it_is_judged(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source, blind=True)
    page = sit(team.rosa).open(f"/queue?source={source}")
    row = page.locator("[data-row]")
    expect(row).to_contain_text("Judge first")
    expect(row).not_to_contain_text("deepfake")
    by_verdict = sit(team.rosa).open(f"/queue?source={source}&verdict=deepfake")
    expect(by_verdict.locator("[data-row]")).to_have_count(0)

    page.get_by_role("button", name="Claim next").click()
    expect(page.get_by_role("heading", name="Judge first")).to_be_visible()
    html = page.content()
    for secret in (
        "Likely deepfake",
        "0.93",
        "Mouth and Lips",
        "smeared",
        "face swapping, ",
        "polygon",
        "scripted",
    ):
        assert secret not in html, secret
    page.keyboard.press("f")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You say: Deepfake")).to_be_visible()
    assert "Likely deepfake" not in page.content()
    page.keyboard.press("z")
    expect(page.get_by_role("radio", name="Deepfake")).to_be_checked()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    expect(page.get_by_text("You say: Bona fide")).to_be_visible()
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", name="Likely deepfake: face swapping")).to_be_visible()
    expect(page.get_by_text("Before you saw this you said: Bona fide")).to_be_visible()
    page.keyboard.press("f")
    page.keyboard.press("Enter")
    expect(_toast(page)).to_contain_text("Decided: Deepfake")
    with owner.transaction() as session:
        (decision,) = decisions_of(session, case_id)
    assert (decision.blind_outcome, decision.outcome, decision.saw_verdict_first) == (
        Outcome.BONA_FIDE,
        Outcome.DEEPFAKE,
        False,
    )


def test_an_appeal_is_decided_by_another_person_who_sees_its_reason_and_what_was_said_before(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    case_id = cases.ready(source=source)
    rosa = sit(team.rosa).open(f"/cases/{case_id}")
    rosa.keyboard.press("c")
    _choose(rosa, "Deepfake")
    rosa.get_by_role("button", name="Decide, and next").click()
    expect(_toast(rosa)).to_contain_text("Decided")
    with owner.transaction() as session:  # time passes; not even the owner changes a decision but so
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE decisions SET final_at = now() WHERE case_id = :c"), {"c": case_id})

    lin = sit(team.lin).open(f"/cases/{case_id}")
    lin.locator("summary", has_text="Appeal against it").click()
    lin.get_by_label("Why another decision").fill("The uploader says it is her.")
    lin.get_by_role("button", name="Open the appeal").click()
    expect(lin.get_by_text("The uploader says it is her.")).to_be_visible()

    rosa.goto(lin.url)
    expect(rosa.locator("#claim")).to_contain_text("You decided this case before")
    ben = sit(team.ben).open(f"/cases/{case_id}")
    expect(ben.get_by_text("The uploader says it is her.")).to_be_visible()
    expect(ben.locator(".folds")).to_contain_text("first review, Rosa Diaz")
    ben.keyboard.press("c")
    _choose(ben, "Bona fide")
    ben.get_by_label("Reason").fill("Same mole, same scar.")
    ben.get_by_role("button", name="Decide, and next").click()
    expect(_toast(ben)).to_contain_text("Decided: Bona fide")
    with owner.transaction() as session:
        assert [d.outcome for d in decisions_of(session, case_id)] == [Outcome.DEEPFAKE, Outcome.BONA_FIDE]


def test_a_second_reader_is_not_told_what_the_first_one_said(
    sit: Sit, team: Team, cases: Cases, source: str
) -> None:
    case_id = cases.ready(source=source, second=True)
    rosa = sit(team.rosa).open(f"/cases/{case_id}")
    rosa.keyboard.press("c")
    _choose(rosa, "Deepfake")
    rosa.get_by_label("Reason").fill("a seam under the chin")
    rosa.get_by_role("button", name="Decide, and next").click()

    ben = sit(team.ben).open(f"/cases/{case_id}")
    expect(ben.get_by_text("Somebody has decided this case before you")).to_be_visible()
    ben.keyboard.press("c")
    expect(ben.locator("#claim")).to_contain_text("Yours")
    assert "a seam under the chin" not in ben.content()
    expect(ben.locator("ol.log")).not_to_contain_text("deepfake")
    _choose(ben, "Bona fide")
    ben.get_by_label("Reason").fill("no seam at all")
    ben.get_by_role("button", name="Decide, and next").click()

    lin = sit(team.lin).open(f"/queue?source={source}&stage=escalated")
    lin.get_by_role("button", name="Claim next").click()
    expect(lin.locator(".folds")).to_contain_text("a seam under the chin")
    expect(lin.locator(".folds")).to_contain_text("no seam at all")
    expect(lin.get_by_role("radio", name="Escalate")).to_have_count(0)


def test_several_cases_are_decided_together_after_the_count_was_confirmed(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    made = [cases.ready(source=source) for _ in range(3)]
    page = sit(team.lin).open(f"/queue?source={source}")
    for box in page.locator("[data-select]").all()[:2]:
        box.check()
    page.get_by_label("chosen: decide as").select_option("deepfake")

    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Decide 2 cases together")
    page.get_by_label("Reason").fill("One campaign, the same face.")
    page.get_by_role("button", name="Decide all 2").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("2 of 2 decided")
    page.get_by_role("button", name="Undo all 2").click()
    expect(page.get_by_text("taken back").first).to_be_visible()
    with owner.transaction() as session:
        states = [find_case(session, case_id) for case_id in made]
    assert all(case is not None and case.state is CaseState.READY for case in states)
    rosa = sit(team.rosa).open(f"/queue?source={source}")
    expect(rosa.locator("[data-row]")).to_have_count(3)
    expect(rosa.locator("[data-select]")).to_have_count(0)


def test_what_people_and_models_write_stays_text(
    sit: Sit, team: Team, cases: Cases, owner: Database, samples: object, source: str
) -> None:
    from tests.console.conftest import an_analysis_of

    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    key = "console/\"><img src=x onerror=document.title='owned'>.jpg"
    case_id = cases.ready(
        source=source, reason=evil, key=key, analysis=an_analysis_of(b"other bytes", text=evil)
    )
    with owner.transaction() as session:
        session.execute(
            text("""INSERT INTO questions (id, case_id, asked_by, question, answer, bundle, answered_at)
                    VALUES (gen_random_uuid(), :c, :by, :evil, :evil, :evil, now())"""),
            {"c": case_id, "by": team.rosa.actor, "evil": evil},
        )
    page = sit(team.rosa).open(f"/queue?source={source}")
    expect(page.locator("[data-row]")).to_contain_text("<img src=x")
    page.get_by_role("button", name="Claim next").click()
    expect(page.locator("#claim")).to_contain_text("Yours")

    page.keyboard.press("1")
    for place in (".artifacts .said", "[data-lens-text]", ".asked", ".answered", ".folds"):
        expect(page.locator(place).first).to_contain_text("<img src=x onerror")
    _choose(page, "Bona fide")
    page.get_by_label("Reason").fill(evil)
    page.get_by_role("button", name="Decide, and next").click()
    page.goto(page.url.split("/queue")[0] + f"/cases/{case_id}")
    expect(page.locator("blockquote").first).to_contain_text("<script>")

    assert page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0


def test_without_scripts_one_signs_in_claims_reveals_and_decides(
    sit: Sit, system: System, team: Team, cases: Cases, source: str
) -> None:
    case_id = cases.ready(source=source)
    desk = sit(team.ben, java_script_enabled=False)
    desk.context.clear_cookies()
    page = desk.page
    _sign_in(page, f"{system.url}/queue?source={source}", team.ben.email)

    page.get_by_role("button", name="Claim next").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(_short(case_id))
    page.get_by_role("button", name="Reveal").click()
    expect(page.locator("[data-stage]")).not_to_have_class(re.compile("blurred"))
    _choose(page, "Deepfake")
    page.get_by_label("Technique, when").select_option("FS")
    page.get_by_role("button", name="Decide, and next").click()

    expect(_toast(page)).to_contain_text("Decided: Deepfake: face swapping")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(_short(case_id))


NO_WORKER = "No worker is running just now"


def test_a_question_waits_plainly_while_no_worker_runs(
    sit: Sit, team: Team, cases: Cases, owner: Database, source: str
) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}")
    expect(page.locator("#turns")).not_to_contain_text(NO_WORKER)

    # The worker shows itself again every ten seconds, perhaps between the two lines: then once more.
    for _ in range(5):
        with owner.transaction() as session:
            session.execute(text("DELETE FROM heartbeats WHERE process LIKE 'worker:%'"))
        page.reload()
        if NO_WORKER in page.locator("#turns").inner_text():
            return
    pytest.fail("the page never said that no worker runs")


@pytest.mark.parametrize("width", [320, 1440])
def test_a_case_that_could_not_be_analysed_says_why_and_is_decided_unaided(
    sit: Sit, team: Team, cases: Cases, client: BonaFide, source: str, width: int
) -> None:
    case_id = cases.submitted("truncated.jpg", source=source)
    page = sit(team.rosa, viewport={"width": width, "height": 900}).open(f"/cases/{case_id}")

    expect(
        page.get_by_role("heading", name="No verdict: the JPEG file is damaged or cut off")
    ).to_be_visible()
    page.get_by_role("button", name="Claim this case").click()
    _choose(page, "Cannot tell")
    page.get_by_role("button", name="Decide, and next").click()
    expect(_toast(page)).to_contain_text("Decided: Cannot tell")
