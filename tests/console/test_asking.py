"""What a reviewer asks DFA-GPT, and what a score is called: one face of several, what is refused, no answer."""

import dataclasses
import re
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from moderation.analysis import (
    Abstain,
    Analysis,
    Basis,
    Box,
    Face,
    FaceAnalysis,
    Label,
    Region,
    Technique,
    Verdict,
    undetermined,
)
from moderation.client import BonaFide
from moderation.database.connection import Database
from moderation.database.questions import (
    begin_question,
    insert_question,
    questions_of,
    record_answer,
    record_failure,
)
from moderation.dfa.gpt.grounding.beside import UNKNOWABLE
from moderation.dfa.instruct.questions import every
from moderation.questions import LONGEST_QUESTION
from moderation.rollouts.rollout_rows import BundleFacts, note_bundles
from moderation.web.console.suggestions import suggestions
from tests.builders import a_face, a_face_analysis, a_verdict, an_analysis, an_artifact, bona_fide
from tests.console.conftest import Cases, Sit, Team, an_analysis_of
from tests.integration.conftest import ready

SMALL = FaceAnalysis(a_face(box=Box(0, 0, 9, 9)), undetermined(Abstain.FACE_TOO_SMALL), background=True)
BASIS = Basis("labelled pictures of avatars", ("avatars",))


def _ask(reviewer: TestClient, case_id: UUID, **fields: str) -> int:
    csrf = re.search(r'name="csrf" value="([^"]+)"', reviewer.get("/queue").text)
    assert csrf is not None
    return reviewer.post(f"/cases/{case_id}/ask", data={"csrf": csrf[1], **fields}).status_code


def _offered(page: str) -> list[str]:
    return re.findall(r'name="suggested" value="([^"]+)"', page)


# --- what a score is called


@pytest.mark.parametrize(
    ("source", "calibrated", "said", "unsaid"),
    [
        pytest.param(
            "avatars", True, "probability of a deepfake", "not among them", id="of a source it was fitted to"
        ),
        pytest.param(
            "banners", True, "no probability here", "probability of a deepfake", id="of another source"
        ),
        pytest.param("avatars", False, "not calibrated", "Calibrated on", id="a score that was not fitted"),
    ],
)
def test_a_score_says_what_it_was_calibrated_on_and_is_called_a_probability_there_alone(
    reviewer: TestClient, database: Database, source: str, said: str, unsaid: str, *, calibrated: bool
) -> None:
    with database.transaction() as session:
        note_bundles(session, {"f1": "small 1"}, {"f1": BundleFacts(BASIS, prompts=2)})
    analysis = an_analysis(faces=(a_face_analysis(verdict=a_verdict(calibrated=calibrated)),))

    page = reviewer.get(f"/cases/{ready(database, source=source, analysis=analysis)}").text

    assert said in page
    assert unsaid not in page
    assert ("Calibrated on labelled pictures of avatars." in page) is calibrated
    assert "It is a probability only where the page calls it one" in page


def test_many_sources_are_counted_and_folded(reviewer: TestClient, database: Database) -> None:
    names = [f"source_{number}" for number in range(17)]
    basis = Basis(f"each of these sources, judged without it: {', '.join(names)}")
    with database.transaction() as session:
        note_bundles(session, {"f1": "small 1"}, {"f1": BundleFacts(basis, prompts=2)})
    analysis = an_analysis(faces=(a_face_analysis(verdict=a_verdict(calibrated=True)),))

    page = reviewer.get(f"/cases/{ready(database, analysis=analysis)}").text

    folded = re.search(r'<details class="[^"]*basis[^>]*><summary>(.*?)</summary>(.*?)</details>', page, re.S)
    assert folded is not None
    assert "17" in folded[1]
    assert not any(name in folded[1] for name in names)
    assert all(name in folded[2] for name in names)


# --- what is offered


def _deepfake(*regions: Region, technique: Technique | None = None) -> FaceAnalysis:
    rationale = tuple(an_artifact(regions=(region,)) for region in regions)
    return a_face_analysis(verdict=a_verdict(technique=technique), rationale=rationale)


BONA_FIDE = FaceAnalysis(a_face(), bona_fide())
UNDECIDED = FaceAnalysis(a_face(), Verdict(Label.UNDETERMINED, score=0.5, abstain=Abstain.NEAR_THRESHOLD))


def test_every_question_that_is_offered_is_one_the_model_learnt_to_answer() -> None:
    faces = [BONA_FIDE, UNDECIDED]
    faces += [_deepfake(*pair, technique=t) for pair in _pairs() for t in (None, *Technique)]

    offered = {one.question for face in faces for one in suggestions(face)}

    assert offered <= {question.text for question in every()}
    assert all(1 <= len(suggestions(face)) <= 6 for face in faces)
    assert all(len({one.short for one in suggestions(face)}) == len(suggestions(face)) for face in faces)


def _pairs() -> list[tuple[Region, ...]]:
    return [(), *((region,) for region in Region), *((one, other) for one in Region for other in Region)]


@pytest.mark.parametrize(
    ("face", "first", "never"),
    [
        pytest.param(
            _deepfake(Region.NOSE, Region.EYES, technique=Technique.FS),
            ["What is wrong with the nose?", "What is wrong with the eyes?"],
            "Do the eyes look natural?",
            id="a deepfake is asked about what was listed",
        ),
        pytest.param(
            _deepfake(Region.UNMAPPED, technique=Technique.EFS),
            ["Why do you say so?", "What does entire face synthesis mean?"],
            "What is wrong with the eyes?",
            id="a picture that was made whole has no region to ask about",
        ),
        pytest.param(
            BONA_FIDE, ["Why do you say so?"], "What stands out most?", id="a bona fide face has no artifacts"
        ),
        pytest.param(
            UNDECIDED,
            ["How sure are you?", "What is the score?"],
            "Do the eyes look natural?",
            id="nothing can be said of the parts of an undecided face",
        ),
    ],
)
def test_what_is_offered_depends_on_what_was_said_of_the_face(
    face: FaceAnalysis, first: list[str], never: str
) -> None:
    offered = [one.question for one in suggestions(face)]

    assert offered[: len(first)] == first
    assert never not in offered


def test_a_bona_fide_face_is_not_asked_about_artifacts() -> None:
    offered = " ".join(one.question for one in suggestions(BONA_FIDE))

    assert not re.search("artifact|wrong|stands out|seam", offered)


@pytest.mark.parametrize("abstain", [Abstain.UNLIKE_TRAINING, Abstain.FACE_TOO_SMALL, Abstain.NO_FACE])
def test_a_picture_without_a_judged_face_offers_no_question_and_says_why(
    reviewer: TestClient, database: Database, abstain: Abstain
) -> None:
    faces = () if abstain is Abstain.NO_FACE else (FaceAnalysis(a_face(), undetermined(abstain)),)
    case_id = ready(database, analysis=an_analysis(faces=faces, verdict=undetermined(abstain)))
    with database.transaction() as session:
        asked = insert_question(session, case_id, asked_by="platform:test", question="Why?")
        begun = begin_question(session, asked.id, stale_after=60, quarantined=False)
        assert begun is not None
        record_failure(session, begun, "no_face")

    page = reviewer.get(f"/cases/{case_id}").text

    assert _offered(page) == []
    assert 'id="question"' not in page
    said = re.search(r'data-no-question="([^"]+)"', page)
    assert said is not None
    assert abstain.words in said[1]
    answered = re.search(r'<p class="answered muted">(.*?)</p>', page)
    assert answered is not None
    assert abstain.words in answered[1]


# --- one face of several


def test_one_face_needs_no_choice(reviewer: TestClient, database: Database) -> None:
    page = reviewer.get(f"/cases/{ready(database)}").text

    assert 'name="face"' not in page


def test_faces_that_were_judged_are_offered_and_each_has_its_questions(
    reviewer: TestClient, database: Database
) -> None:
    case_id = ready(database, analysis=an_analysis(faces=(_deepfake(Region.NOSE), BONA_FIDE, SMALL)))

    page = reviewer.get(f"/cases/{case_id}").text
    first, second, beyond = (
        _offered(reviewer.get(f"/cases/{case_id}/suggestions?face={face}").text) for face in (1, 2, 3)
    )

    assert re.findall(r'<option value="(\d)"', page) == ["1", "2"]
    assert _offered(page) == first == beyond
    assert "What is wrong with the nose?" in first
    assert second == [one.question for one in suggestions(BONA_FIDE)]


def test_a_question_about_a_face_that_was_not_judged_comes_back(
    reviewer: TestClient, database: Database
) -> None:
    case_id = ready(database, analysis=an_analysis(faces=(a_face_analysis(), BONA_FIDE, SMALL)))

    statuses = [_ask(reviewer, case_id, question="Why?", face=face) for face in ("3", "0", "two", "2")]

    assert statuses == [422, 422, 422, 303]
    with database.transaction() as session:
        assert [one.face for one in questions_of(session, case_id)] == [2]


def test_a_question_about_a_face_of_another_analysis_says_so(
    reviewer: TestClient, database: Database
) -> None:
    case_id = ready(database, analysis=an_analysis(faces=(a_face_analysis(), BONA_FIDE)))
    with database.transaction() as session:
        insert_question(session, case_id, asked_by="platform:test", question="Why?", about=(case_id, 2))

    assert "a face of an earlier analysis" in reviewer.get(f"/cases/{case_id}").text


# --- in a browser


def _of_two_faces(cases: Cases) -> Analysis:
    analysis = an_analysis_of((cases.samples / "forged-swap-1.jpg").read_bytes())
    verdict = Verdict(Label.BONA_FIDE, score=0.12, margin=-2.0, answer_mass=0.99)
    second = FaceAnalysis(Face(Box(10, 10, 80, 90), 0.9), verdict)
    return dataclasses.replace(analysis, faces=(*analysis.faces, second))


def test_a_face_is_chosen_by_its_number_and_the_answer_says_which(
    cases: Cases, client: BonaFide, sit: Sit, team: Team, source: str
) -> None:
    case_id = cases.ready(source=source, analysis=_of_two_faces(cases))
    page = sit(team.rosa).open(f"/cases/{case_id}?revealed=1")
    offered = page.get_by_role("group", name="Suggested questions")
    expect(page.locator(".face-number text")).to_have_text(["1", "2"])
    expect(offered).to_contain_text("The mouth: what is wrong?")

    page.get_by_label("About", exact=True).select_option("2")
    expect(offered).not_to_contain_text("what is wrong?")
    offered.get_by_role("button", name="The eyes?").click()

    expect(page.locator(".asked")).to_have_text(re.compile(r"face 2\s+Do the eyes look natural\?"))
    expect(page.locator(".turns .answered").first).not_to_contain_text("is looking")
    (asked,) = client.questions(case_id).questions
    assert asked.face == 2
    if asked.answer is not None:  # mini may have none: then the page says that
        expect(page.locator(".turns .by")).to_contain_text("about face 2")

    page.get_by_placeholder("Your own question").fill("And the nose?")
    page.get_by_placeholder("Your own question").press("Enter")
    expect(page.locator(".asked").nth(1)).to_contain_text("face 2")


def test_a_question_that_is_none_is_refused_with_what_would_be_one(
    cases: Cases, sit: Sit, team: Team, source: str
) -> None:
    page = sit(team.rosa).open(f"/cases/{cases.ready(source=source)}?revealed=1")

    page.get_by_placeholder("Your own question").fill("   ")
    page.get_by_placeholder("Your own question").press("Enter")

    expect(page.locator("#turns [role=alert]")).to_contain_text(f"{LONGEST_QUESTION} characters")
    expect(page.locator(".asked")).to_have_count(0)


def test_what_no_picture_can_answer_and_what_the_model_has_no_answer_to_are_told_apart(
    cases: Cases, owner: Database, sit: Sit, team: Team, source: str
) -> None:
    """The model refuses in a sentence of its own; of a reply that cannot be read the page says that there is none."""
    case_id = cases.ready(source=source)
    beyond = UNKNOWABLE["who"][0]
    with owner.transaction() as session:
        for question, answer in (("Who is this?", beyond), ("Is this face forged?", None)):
            asked = insert_question(session, case_id, asked_by=team.rosa.actor, question=question)
            begun = begin_question(session, asked.id, stale_after=60, quarantined=False)
            assert begun is not None
            if answer is None:
                record_failure(session, begun, "unreadable")
            else:
                record_answer(session, begun, answer, bundle="small 1", fingerprint="f", seconds=0.8)

    page = sit(team.rosa).open(f"/cases/{case_id}?revealed=1")

    who, forged = page.locator(".turns li").all()
    expect(who.locator(".answered")).to_have_text(beyond)
    expect(who.locator(".by")).to_have_text("small 1 in 0.8 s")
    expect(forged.locator(".answered")).to_contain_text("The model has no answer to this")
    expect(forged.locator(".answered")).to_have_class(re.compile("muted"))
    expect(forged.locator(".by")).to_have_count(0)
