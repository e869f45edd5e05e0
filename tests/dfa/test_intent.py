"""Questions are understood, and answered from what is known of the face."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moderation.analysis import (
    Abstain,
    Artifact,
    Box,
    Effect,
    Face,
    FaceAnalysis,
    ForeignMap,
    Label,
    Point,
    Region,
    Technique,
    Verdict,
)
from moderation.dfa.gpt.bundle import Bundle, BundleSpec, load_bundle, read_bundle, write_card
from moderation.dfa.gpt.conversation import answer_or_none
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.engine.engine import Engine, Plan, Route
from moderation.dfa.gpt.engine.low_rank import LowRank
from moderation.dfa.gpt.grounding.answers import UNCLEAR, answer, answer_each
from moderation.dfa.gpt.grounding.beside import UNKNOWABLE, causes_named
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.gpt.grounding.intent import asked_alone, halves, told_together, understood
from moderation.dfa.gpt.grounding.intent_head import Attending, IntentHead, load_intents, save_intents
from moderation.dfa.gpt.grounding.known import Question, known_from
from moderation.dfa.gpt.grounding.named import named_in, regions_asked, techniques_asked
from moderation.dfa.gpt.grounding.sentences import Noun, worded
from moderation.dfa.gpt.policy import Policy
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.train.intents import Taught, fit_intents
from moderation.errors import BundleMismatch
from tests.dfa.conftest import a_crop, copy_of
from tests.dfa.test_detector import FACE

#: Logits of a head that takes everything for a question about the verdict, rather than about a region.
SCORES = {
    "verdict/fake": 1.0,
    "verdict/real": 0.0,
    "verdict/open": -2.0,
    "region/natural": 0.5,
    "region/forged": -2.0,
    "region/open": -3.0,
    "compare/open": 0.0,
    "skin/natural": -1.5,
    "technique/open": -2.0,
    "technique_named/named": -1.0,
}
SOFT_NOSE = worded(Touch(Region.NOSE, Kind.SOFTER, 0.7), [])


def analysed(
    label: Label, *touches: Touch, technique: Technique | None = None, face: Face = FACE
) -> FaceAnalysis:
    abstain = Abstain.NEAR_THRESHOLD if label is Label.UNDETERMINED else None
    verdict = Verdict(
        label, score=0.5, margin=0.0, answer_mass=1.0, calibrated=True, technique=technique, abstain=abstain
    )
    lines = tuple(Artifact("A heading", worded(touch, touches), (touch.region,)) for touch in touches)
    return FaceAnalysis(face, verdict, lines)


@pytest.mark.parametrize(
    ("question", "regions"),
    [
        ("Is the nose softer than the mouth?", [Region.NOSE, Region.MOUTH]),
        ("what about her foreheed", [Region.FOREHEAD]),
        ("nostirls ok?", [Region.NOSE]),
        ("Is it real?", []),
    ],
)
def test_regions_are_read_from_the_words_in_their_order(question: str, regions: list[Region]) -> None:
    assert list(regions_asked(question)) == regions


def test_regions_keep_the_name_that_the_question_gives_them() -> None:
    assert regions_asked("eyebrows?") == {Region.EYES: Noun("eyebrows", plural=True)}
    assert regions_asked("Is the smile off?") == {Region.MOUTH: Noun("smile")}
    assert regions_asked("teeth ok") == {Region.MOUTH: Noun("teeth", plural=True)}
    assert regions_asked("lips and teeth, then lip") == {
        Region.MOUTH: Noun("lips and the teeth", plural=True)
    }
    assert regions_asked("the eye, the eyes") == {Region.EYES: Noun("eye")}
    assert regions_asked("the iris") == {Region.EYES: Noun("eyes", plural=True)}


@pytest.mark.parametrize(
    ("question", "technique"),
    [
        ("Did they swap faces?", Technique.FS),
        ("a reenactmant?", Technique.FR),
        ("Is the entire face synthetic?", Technique.EFS),
    ],
)
def test_techniques_are_read_from_the_words(question: str, technique: Technique) -> None:
    assert techniques_asked(question) == {technique}


def test_what_a_question_names_is_what_is_answered() -> None:
    by_region = SCORES | {"region/natural": 5.0, "compare/open": 4.0}
    assert understood("Is that so?", by_region).family == "verdict"
    nose = understood("Is the nose real?", by_region)
    assert (nose.family, nose.form, nose.region) == ("region", "natural", Region.NOSE)
    both = understood("Are nose and mouth real?", by_region)
    assert both.family == "compare"
    assert both.others
    assert (both.region, both.others[0][0]) == (Region.NOSE, Region.MOUTH)
    swap = understood("Is it a face swap?", SCORES | {"technique_named/named": 5.0})
    assert (swap.family, swap.technique) == ("technique_named", Technique.FS)
    assert understood("Is it that one?", SCORES | {"technique_named/named": 5.0}).family == "verdict"


def test_it_stands_for_the_region_that_was_asked_about_last() -> None:
    blurred = SCORES | {"region/blur": 0.9, "verdict/fake": 3.6, "verdict/real": 2.0}
    earlier = ["Is the nose real?", "And the mouth?"]

    asked = understood("Is it blurred?", blurred, earlier)

    assert (asked.family, asked.form, asked.region) == ("region", "blur", Region.MOUTH)
    assert understood("Is it blurred?", blurred).family == "verdict"  # nothing was named
    assert understood("Any blur?", blurred, earlier).family == "verdict"  # nothing is pointed to
    assert understood("Is it blurred?", blurred, [*earlier, "Why?"]).family == "verdict"  # too long ago
    fake = blurred | {"verdict/fake": 5.0, "region/blur": -1.0}
    assert understood("Is it fake?", fake, earlier).family == "verdict"  # the face, rather than the mouth


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Is it fake, and how sure are you?", ("Is it fake?", "How sure are you?")),
        ("Is it real? Where should I look?", ("Is it real?", "Where should I look?")),
        ("Is it real, and on what do you base it?", ("Is it real?", "On what do you base it?")),
        ("is it fake and why", ("is it fake?", "Why do you say so?")),
        ("Is it a swap, and who is under it?", ("Is it a swap?", "Who is under it?")),
        ("Are the eyes and the mouth natural?", None),
        ("Hello. Is it fake?", None),
        ("The two earrings differ, right? Does this count?", None),
    ],
)
def test_two_questions_at_once_are_parted(text: str, parts: tuple[str, str] | None) -> None:
    assert halves(text) == parts


def test_two_answers_are_given_when_they_differ() -> None:
    verdict, sure, who = (Question("", family, "open", 0) for family in ("verdict", "certainty", "who"))

    assert told_together(verdict, sure)
    assert not told_together(verdict, verdict)
    assert told_together(Question("", "places", "count", 0), Question("", "places", "most", 0))
    assert told_together(verdict, who)
    assert told_together(who, Question("", "when", "open", 0))
    eyes, mouth = (Question("", "region", "forged", 0, region) for region in (Region.EYES, Region.MOUTH))
    assert told_together(eyes, mouth)
    assert not told_together(eyes, eyes)


def test_a_question_that_fits_nothing_is_said_not_to_be_understood() -> None:
    families = ("verdict", "who", "when", "score", "limits", "next", "summary", "reasons")
    level = {f"{family}/open": 0.0 for family in families}

    asked = understood("Zxcv?", level)

    assert asked.family == UNCLEAR
    known = known_from(analysed(Label.BONA_FIDE))
    assert known is not None
    assert answer(asked, known, load_prompts(2)).startswith("I am not sure what you ask.")


def test_a_region_is_compared_with_the_skin() -> None:
    asked = understood("Compare the skin with the mouth", SCORES | {"compare/open": 5.0})

    assert asked.others
    assert (asked.family, asked.region, asked.others[0][0]) == ("compare", Region.MOUTH, Region.SKIN)


@pytest.mark.parametrize(
    "text",
    ["Is it genuine or has it been tampered with?", "Genuine or forged?", "Tell me whether it is forged."],
)
def test_an_either_or_has_no_yes(text: str) -> None:
    for face in (analysed(Label.BONA_FIDE), analysed(Label.DEEPFAKE, technique=Technique.EFS)):
        assert said_of(face, "Is it genuine?", "verdict/real").startswith(("Yes, ", "No, "))
        assert said_of(face, text, "verdict/real").startswith("I ")


def test_a_colour_that_is_real_or_changed_gets_no_no() -> None:
    said = said_of(analysed(Label.BONA_FIDE), "Is the hair dyed or was its colour changed?", "region/colour")

    assert said == "I see no wrong colour in the hair."


def test_whether_two_sides_match_and_where_light_comes_from_is_not_claimed() -> None:
    known = known_from(analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)))
    assert known is not None
    prompts = load_prompts(2)

    def said(text: str, intent: str) -> str:
        return answer(understood(text, {intent: 5.0, "region/open": 0.0, "light/open": 0.0}), known, prompts)

    nose, eyes, face = (
        said(text, "match/open")
        for text in ("Is the nose symmetric?", "Do the eyes match?", "Are both halves alike?")
    )
    assert nose == f"I do not measure whether the two sides match, but {SOFT_NOSE[0].lower()}{SOFT_NOSE[1:]}"
    assert "no artifact in the eyes; the artifacts are in the nose" in eyes
    assert SOFT_NOSE[1:] in face
    light = said("Where does the light come from?", "light/direction")
    assert light == "I do not work out where the light comes from; the artifacts are in the nose."


def test_a_short_summary_is_short() -> None:
    prompts, asked = load_prompts(2), Question("", "summary", "short", 0)
    for face in (
        analysed(Label.BONA_FIDE),
        analysed(Label.UNDETERMINED),
        analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FS),
    ):
        known = known_from(face)
        assert known is not None
        assert len(answer(asked, known, prompts).split()) < 20


def test_who_is_not_sure_what_is_asked_says_the_verdict_too() -> None:
    known = known_from(analysed(Label.BONA_FIDE))
    assert known is not None
    scores = {"who/open": 0.2, "verdict/open": 0.0, "region/open": 0.0, "scope/open": 0.0}

    sure, unsure = (
        answer(understood("What is going on?", {**scores, "who/open": logit}), known, load_prompts(2))
        for logit in (3.0, 0.2)
    )

    assert "bona fide" not in sure
    assert unsure.startswith(sure)
    assert "I take this face for bona fide" in unsure


def test_nothing_is_claimed_of_the_background() -> None:
    known = known_from(analysed(Label.BONA_FIDE))
    assert known is not None

    said = answer(understood("Is the background real?", {"region/natural": 5.0}), known, load_prompts(2))

    assert said in UNKNOWABLE["things"]


def test_the_score_is_told_as_it_was_measured() -> None:
    face = analysed(Label.BONA_FIDE)
    face = replace(face, verdict=replace(face.verdict, score=0.124))
    known = known_from(face)
    assert known is not None

    said = [
        answer(Question("", family, form, 0), known, load_prompts(2))
        for family, form in (
            ("score", "open"),
            ("score", "why"),
            ("score", "probability"),
            ("certainty", "open"),
        )
    ]

    assert all("0.12" in text for text in said), said


#: A head that finds all of these as likely.
LEVEL: dict[str, float] = dict.fromkeys(
    (
        "verdict/fake", "verdict/real", "region/forged", "region/natural", "region/open", "technique_named/named",
    ),
    0.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "intent", "unmeasured"),
    [
        ("Are the eyes at the same tilt as the head?", "boundary/fits", "how parts line up"),
        ("Do both eyes point in the same direction?", "light/direction", "where eyes look"),
        ("Is the nose too big?", "region/wrong", "sizes and proportions"),
        ("Do the eyes and the nose line up?", "compare/open", "how parts line up"),
    ],
)
def test_how_parts_lie_to_each_other_is_not_measured(text: str, intent: str, unmeasured: str) -> None:
    seam = Touch(Region.FACE_BOUNDARY, Kind.SEAM, 0.7)

    clean = said_of(analysed(Label.BONA_FIDE), text, intent)
    forged = said_of(analysed(Label.DEEPFAKE, seam), text, intent)
    undecided = said_of(analysed(Label.UNDETERMINED), text, intent)

    assert all(said.startswith(f"I do not measure {unmeasured}") for said in (clean, forged, undecided))
    assert forged.endswith("the artifacts are at the edge of the face.")


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Does the light come from the same direction?", "light/direction"),
        ("Is the jaw warped out of its proportions?", "region/distortion"),
    ],
)
def test_what_is_asked_otherwise_is_answered_as_it_was_asked(text: str, intent: str) -> None:
    assert "do not measure" not in said_of(analysed(Label.BONA_FIDE), text, intent)


def test_an_edge_is_that_of_the_parts_which_the_question_names() -> None:
    seam = Touch(Region.FACE_BOUNDARY, Kind.SEAM, 0.7)
    clean, forged = analysed(Label.BONA_FIDE), analysed(Label.DEEPFAKE, seam)
    generated = analysed(Label.DEEPFAKE, technique=Technique.EFS)

    def at(face: FaceAnalysis, text: str) -> str:
        return said_of(face, text, "boundary/open")

    assert "lips" in at(clean, "Does the pink bleed over the edge of the lips?")
    assert at(clean, "Does the hair end cleanly?") == "I see no artifact in the hair or the edge of the face."
    there = at(forged, "Is there a line along the jaw?")
    assert there.startswith(worded(seam, [seam]))
    assert "no artifact in the jaw" in there
    whole = at(generated, "A line along the jaw?")
    assert whole == "I see no seam to point to: the whole picture looks generated, the jaw included."
    assert "colours" in said_of(clean, "Does the tone of the face fit the neck?", "boundary/fits")


def test_who_compares_colours_hears_of_colours() -> None:
    asked, intent = "Is the skin of the cheeks redder than the neck?", "compare/open"
    softer, pale = Touch(Region.CHEEKS, Kind.SOFTER, 0.7), Touch(Region.CHEEKS, Kind.COLOUR, 0.7)

    assert (
        said_of(analysed(Label.BONA_FIDE), asked, intent)
        == "I see no wrong colour in the cheeks or the neck."
    )
    soft = said_of(analysed(Label.DEEPFAKE, softer), asked, intent)
    assert soft == "I see no wrong colour in the cheeks or the neck; the artifacts are in the cheeks."
    coloured = said_of(analysed(Label.DEEPFAKE, pale), asked, intent)
    assert coloured.startswith(worded(pale, [pale])[:-1])


def test_who_asks_where_the_verdict_turns_gets_the_scores() -> None:
    known = known_from(analysed(Label.DEEPFAKE), (0.3, 0.5))
    assert known is not None
    asked = understood("Why a deepfake and not undetermined?", LEVEL | {"reasons/open": 5.0})

    assert "From 0.50 on I say deepfake, below 0.30 bona fide" in answer(asked, known, load_prompts(2))


def test_who_asks_for_one_kind_of_generator_hears_that_it_is_not_told_apart() -> None:
    said = said_of(analysed(Label.DEEPFAKE, technique=Technique.EFS), "Diffusion model or GAN?", "maker/open")

    assert "I do not tell them apart" in said
    assert "entire face synthesis" in said


def test_what_a_region_counts_for_is_told_as_it_was_measured() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))
    (line,) = face.rationale
    measured = replace(line, effect=Effect(0.21, 1.3, 0.48, 0.1))
    known = known_from(replace(face, rationale=(measured,)))
    assert known is not None

    said = answer(
        understood("What if I hide the nose?", LEVEL | {"region/effect": 5.0}), known, load_prompts(2)
    )

    assert "0.50 to 0.21" in said
    assert "0.48" in said
    assert answer_or_none(said, deepfake=True, artifacts=(measured,)) == said
    unmeasured = known_from(face)
    assert unmeasured is not None
    assert "did not measure" in answer(
        understood("What if I hide the nose?", LEVEL | {"region/effect": 5.0}), unmeasured, load_prompts(2)
    )


def said_of(face: FaceAnalysis, text: str, intent: str) -> str:
    """What is said of a face when the question is read as this intent."""
    known = known_from(face)
    assert known is not None
    said = answer(understood(text, LEVEL | {intent: 5.0}), known, load_prompts(2))
    assert answer_or_none(said, deepfake=known.deepfake, artifacts=face.rationale) == said
    return said


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        (Effect(0.21, 1.3, 0.48, 0.1), "falls from 0.50 to 0.21, far below a deepfake's;"),
        (Effect(0.42, 0.3, 0.48, 0.1), "falls from 0.50 to 0.42, too little for a verdict;"),
        (Effect(0.51, -0.1, 0.48, 0.1), "rises from 0.50 to 0.51, still a deepfake to me;"),
    ],
)
def test_it_is_told_what_the_verdict_would_be_without_a_region(effect: Effect, told: str) -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))
    lines = (replace(face.rationale[0], effect=effect),)
    known = known_from(replace(face, rationale=lines), (0.3, 0.5))
    assert known is not None

    for text, intent in (
        ("What if I hide the nose?", "region/effect"),
        ("Still fake without it?", "region/effect"),
    ):
        said = answer(understood(text, LEVEL | {intent: 5.0}), known, load_prompts(2))
        assert told in said
        assert answer_or_none(said, deepfake=True, artifacts=lines) == said


def test_several_regions_are_hidden_one_by_one() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))
    lines = (replace(face.rationale[0], effect=Effect(0.21, 1.3, 0.48, 0.1)),)
    asked, intent = "What is the score without the nose and the mouth?", "region/effect"

    measured = said_of(replace(face, rationale=lines), asked, intent)
    clean = said_of(analysed(Label.BONA_FIDE), asked, intent)

    assert measured.startswith("I hide one region at a time, and not several at once. With the nose hidden")
    assert clean == "I did not measure what the score is without the nose and the mouth."


def test_what_several_parts_count_for_is_measured_like_what_one_counts_for() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))
    asked = "Which matters more for the score, the nose or the mouth?"

    assert said_of(face, asked, "compare/open").startswith(
        "I did not measure what the score is without the nose"
    )


def test_the_skin_is_one_of_several_parts() -> None:
    asked = "Rate the nose, the mouth and the skin"
    forged = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))

    assert "the skin" in said_of(analysed(Label.BONA_FIDE), asked, "compare/each")
    assert "skin" not in said_of(forged, asked, "compare/each")


def test_how_sure_a_technique_is_is_told_with_its_share() -> None:
    face = analysed(Label.DEEPFAKE, technique=Technique.FS)
    shares = {Technique.FS: 0.7, Technique.FR: 0.1, Technique.FE: 0.1, Technique.EFS: 0.1}
    sure = replace(face, verdict=replace(face.verdict, technique_scores=shares))

    assert "with a share of 0.70" in said_of(sure, "How sure are you of the type?", "technique/open")


def test_what_cannot_be_known_is_said_of_both_things_that_are_asked_for() -> None:
    said = said_of(analysed(Label.BONA_FIDE), "Tell me how old she is and her name", "attributes/open")

    assert said.endswith("Nor can I tell who it is.")
    assert UNKNOWABLE["attributes"][0] in said or UNKNOWABLE["attributes"][1] in said


def test_one_thing_that_cannot_be_known_gets_one_answer() -> None:
    said = said_of(analysed(Label.BONA_FIDE), "Should we suspend the account?", "sanction/open")

    assert "Nor can I tell" not in said


def test_a_question_whether_this_picture_is_genuine_asks_for_the_verdict() -> None:
    face = analysed(Label.BONA_FIDE)

    assert "bona fide" in said_of(face, "Is this frame genuine?", "other_media/open")
    assert "bona fide" in said_of(face, "What is the verdict for this old woman?", "attributes/open")
    assert "frame or sound" in said_of(face, "Is the face behind him genuine?", "other_media/open")


def test_a_thing_is_no_proof_when_it_is_asked_for_one() -> None:
    face = analysed(Label.BONA_FIDE)

    assert "proves nothing" in said_of(face, "Is the green hat a sign of a forgery?", "things/open")
    assert "proves nothing" not in said_of(face, "What about the green hat?", "things/open")


@pytest.mark.parametrize(
    ("question", "thing"),
    [
        ("that is not enough to flag it", None),
        ("did you flag the nose", None),
        ("the flag behind him", "flag"),
    ],
)
def test_a_flag_is_a_thing_only_when_it_is_one(question: str, thing: str | None) -> None:
    unjudged = named_in(question).unjudged

    assert (unjudged and unjudged.word) == thing


def test_the_artifact_that_matters_most_is_the_one_that_the_score_needs() -> None:
    face = analysed(
        Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.9), Touch(Region.MOUTH, Kind.SOFTER, 0.4)
    )
    strong, weak = face.rationale
    idle, needed = Effect(0.49, 0.1, 0.48, 0.1), Effect(0.2, 1.3, 0.48, 0.1)
    measured = (replace(strong, effect=idle), replace(weak, effect=needed))
    known = known_from(replace(face, rationale=measured), (0.3, 0.5))
    assert known is not None

    most = answer(understood("What counts most?", LEVEL | {"places/most": 5.0}), known, load_prompts(2))

    assert most.startswith("Above all, the mouth")
    assert "With the mouth hidden the score falls from 0.50 to 0.20" in most
    assert "the nose" in said_of(face, "What counts most?", "places/most")

    unneeded = (replace(strong, effect=idle), replace(weak, effect=idle))
    alike = known_from(replace(face, rationale=unneeded), (0.3, 0.5))
    assert alike is not None
    none = answer(understood("What counts most?", LEVEL | {"places/most": 5.0}), alike, load_prompts(2))
    assert none.startswith("None counts for much alone")
    assert "The clearest: the nose" in none


def test_a_detail_that_a_person_sees_is_neither_confirmed_nor_denied() -> None:
    asked, intent = "There is a line across the nose, do you see it?", "region/seen"

    clean = said_of(analysed(Label.BONA_FIDE), asked, intent)
    there = said_of(analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)), asked, intent)
    elsewhere = said_of(analysed(Label.DEEPFAKE, Touch(Region.EYES, Kind.SOFTER, 0.7)), asked, intent)
    whole = said_of(analysed(Label.DEEPFAKE, technique=Technique.EFS), asked, intent)

    assert all(text.startswith("I cannot judge single details") for text in (clean, there, elsewhere, whole))
    assert "no artifact in the nose" in clean
    assert there.endswith(SOFT_NOSE[1:])
    assert "only in the eyes" in elsewhere
    assert "the nose included" in whole


@pytest.mark.parametrize("intent", ["boundary/open", "skin/open", "places/where", "challenge/open"])
def test_what_is_not_judged_is_named_and_not_passed_over(intent: str) -> None:
    for face in (
        analysed(Label.BONA_FIDE),
        analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)),
        analysed(Label.DEEPFAKE, technique=Technique.EFS),
        analysed(Label.UNDETERMINED),
    ):
        thing = said_of(face, "And where the scarf begins?", intent)
        mark = said_of(face, "And where the freckles are?", intent)
        neither = said_of(face, "And there?", intent)

        assert thing.endswith(" I cannot judge the scarf, only the face.")
        assert mark.endswith(" I cannot judge single details such as the freckles.")
        assert "cannot judge" not in neither


def test_a_long_answer_does_not_grow() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))

    assert len(said_of(face, "Does the scarf count?", "evidence/enough").split()) <= 50


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Isn't that only the WhatsApp compression?", "ompression can look like a forgery"),
        ("Couldn't it be a beauty filter and make-up?", "filter and make-up can look like a forgery"),
        ("Is there an innocent reason?", "ompression, a filter, make-up or a poor picture can look like"),
    ],
)
def test_the_explanation_that_is_offered_is_taken_up(text: str, told: str) -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))

    assert told in said_of(face, text, "otherwise/open")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Too tiny and dark for you?", "a small size and a dark or overexposed picture can hide traces"),
        ("Can you judge it with her eyes shut?", "what covers or crops a face can hide traces"),
        ("Do the goggles confuse you?", "the goggles can hide traces"),
        ("Is it good enough for you?", "poor quality, a filter or a cover can hide traces"),
    ],
)
def test_what_may_harm_the_judgement_is_what_was_asked_about(text: str, told: str) -> None:
    for label in (Label.BONA_FIDE, Label.UNDETERMINED):
        assert told in said_of(analysed(label), text, "limits/picture")


@pytest.mark.parametrize(
    "word",
    ["jpeg", "blurred", "tiny", "filter", "make-up", "dark", "sepia", "tilted", "mask", "botox", "scanned"],
)
def test_no_cause_makes_an_answer_that_contradicts_itself(word: str) -> None:
    soft = Touch(Region.NOSE, Kind.SOFTER, 0.7)
    for face in (analysed(Label.BONA_FIDE), analysed(Label.DEEPFAKE, soft), analysed(Label.UNDETERMINED)):
        for intent in ("otherwise/open", "limits/picture"):
            assert str(causes_named(word)) in said_of(face, f"Is it {word}?", intent).lower()


def test_an_answer_about_a_thing_or_a_detail_names_it_once() -> None:
    face = analysed(Label.BONA_FIDE)

    assert "the scarf" in said_of(face, "Is the scarf real?", "things/open")
    assert "such as the mole;" in said_of(face, "Is the mole on the chin a sign?", "region/seen")
    assert "in the ears" in said_of(face, "Is the earring a sign?", "region/seen")
    assert said_of(face, "Is the scarf real?", "things/open").count("scarf") == 1


@pytest.mark.parametrize(
    ("text", "word", "on_face"),
    [
        ("What about his sunglasses?", "sunglasses", False),
        ("Eyes behind the lenses?", "lenses", False),
        ("A brown spot by the nose, see it?", "spot", True),
        ("Crow's feet look painted", "crow's feet", True),
    ],
)
def test_things_and_details_are_recognised(text: str, word: str, *, on_face: bool) -> None:
    unjudged = named_in(text).unjudged

    assert unjudged is not None
    assert (unjudged.word, unjudged.on_face) == (word, on_face)


@pytest.mark.parametrize(
    "text", ["Did you spot anything?", "Is that a red flag?", "On the other hand, is it real?"]
)
def test_turns_of_phrase_name_no_thing(text: str) -> None:
    assert named_in(text).unjudged is None


def test_the_other_techniques_are_told_by_their_shares() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FS)
    shares = {Technique.FS: 0.6, Technique.FR: 0.1, Technique.FE: 0.25, Technique.EFS: 0.05}
    measured = replace(face, verdict=replace(face.verdict, technique_scores=shares))
    asked, intent = "What rules out the others?", "technique/others"

    assert "share of 0.60; next is face editing, with 0.25" in said_of(measured, asked, intent)
    assert "cannot rule the others out" in said_of(face, asked, intent)
    assert "bona fide" in said_of(analysed(Label.BONA_FIDE), asked, intent)


def test_two_techniques_are_held_against_each_other() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FS)
    intent = "technique_meant/difference"

    both = said_of(face, "How does reenactment differ from face editing?", intent)
    with_its_own = said_of(face, "How does a GAN face differ from this?", intent)
    filtered = said_of(face, "How would a filter look different?", intent)

    assert "expression and movement" in both
    assert "single attributes" in both
    assert "a whole face that belongs to nobody; face swapping replaces" in with_its_own
    assert "a filter" in filtered


@pytest.mark.parametrize(
    ("intent", "words"),
    [
        ("score/other", "and their numbers are on another scale"),
        ("score/probability", "about 50 of 100 faces"),
        ("certainty/than", "I remember no other face"),
        ("limits/picture", "can hide traces"),
        ("scope/open", "every region"),
        ("summary/record", "A model judged this face, and it can be wrong"),
    ],
)
def test_what_is_said_of_the_score_the_picture_and_the_record(intent: str, words: str) -> None:
    forged = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FS)

    for face in (analysed(Label.BONA_FIDE), forged):
        assert words in said_of(face, "Than others?", intent)


def test_a_record_says_that_it_is_no_proof() -> None:
    forged = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FS)

    for face in (analysed(Label.BONA_FIDE), forged):
        assert said_of(face, "?", "summary/record").endswith("That is no proof.")
    assert "could not decide" in said_of(analysed(Label.UNDETERMINED), "?", "summary/record")


def test_a_seam_is_told_when_the_face_is_held_against_what_is_around_it() -> None:
    seam = Touch(Region.FACE_BOUNDARY, Kind.SEAM, 0.7)
    face = analysed(Label.DEEPFAKE, seam, Touch(Region.NOSE, Kind.SOFTER, 0.7))

    around = said_of(face, "Do the cheeks look like the neck?", "compare/open")
    inside = said_of(face, "Do the cheeks look like the forehead?", "compare/open")

    assert "no artifact in the cheeks or the neck alone, but a" in around
    assert "seam runs around the face" in around
    assert "seam" not in inside


def test_of_a_swapped_face_no_region_is_said_to_show_no_other_face() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FS)

    nose, mouth, neck = (
        said_of(face, f"Was the {region} replaced?", "region/replacement")
        for region in ("nose", "mouth", "neck")
    )

    assert "another person's, and the nose" in nose
    assert "no artifact in the mouth alone" in mouth
    assert "not what is around it" in neck


def test_an_undecided_face_has_no_measured_effects() -> None:
    said = said_of(analysed(Label.UNDETERMINED), "What if I hide the nose?", "region/effect")

    assert "was not measured" in said
    assert "undecided" in said


def test_who_is_undecided_says_what_it_does_not_measure() -> None:
    face = analysed(Label.UNDETERMINED)

    for text, intent, words in (
        ("Do the eyes match?", "match/open", "do not measure"),
        ("Where does the light come from?", "light/direction", "do not work out"),
        ("There is a line across the nose.", "region/seen", "single details"),
        ("Is the nose worse than the mouth?", "compare/open", "more of the nose or the mouth"),
    ):
        said = said_of(face, text, intent)
        assert words in said
        assert "undecided" in said


def test_two_explanations_of_one_part_get_neither_yes_nor_no() -> None:
    face, asked = analysed(Label.BONA_FIDE), "Is the mouth manipulated or is it just the pose?"

    assert "proves nothing" in said_of(face, asked, "region/explained")
    assert said_of(face, "Is the mouth manipulated?", "region/forged").startswith("No")


def test_who_asks_for_one_of_two_techniques_gets_the_technique() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), technique=Technique.FE)

    said = said_of(face, "He bets on a swap, I say it was edited. Who is closer?", "technique_named/named")

    assert said.startswith("Face editing is the likeliest")
    assert not said.startswith(("No", "Yes"))


def test_a_seam_is_no_single_detail() -> None:
    seam = Touch(Region.FACE_BOUNDARY, Kind.SEAM, 0.7)

    there = said_of(analysed(Label.DEEPFAKE, seam), "I see a seam at the hair, do you?", "region/seen")
    clean = said_of(analysed(Label.BONA_FIDE), "I see a seam at the hair, do you?", "region/seen")

    assert "seam runs around the face" in there
    assert "the edge of the face" in clean


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What does undetermined mean?", "I do not decide"),
        ("What is a deepfake?", "Deepfakes are"),
    ],
)
def test_the_words_of_verdicts_are_explained(text: str, words: str) -> None:
    assert words in said_of(analysed(Label.BONA_FIDE), text, "technique_meant/meant")


def test_what_two_answers_share_is_said_once() -> None:
    known = known_from(analysed(Label.BONA_FIDE))
    assert known is not None
    limits, verdict = Question("", "limits", "picture", 0), Question("", "verdict", "open", 0)
    alone = answer(verdict, known, load_prompts(2))

    both = answer_each((limits, verdict), known, load_prompts(2))

    assert both.count("bona fide") == 1
    assert both.endswith(alone)
    assert answer_each((verdict, verdict), known, load_prompts(2)) == alone


def test_a_sentence_that_stands_in_another_is_not_said_again() -> None:
    known = known_from(analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)))
    assert known is not None
    verdict, why = Question("", "verdict", "open", 0), Question("", "reasons", "open", 0)

    both = answer_each((verdict, why), known, load_prompts(2))

    assert both == answer(verdict, known, load_prompts(2))


@pytest.mark.parametrize(
    ("label", "score", "turned"),
    [
        (Label.DEEPFAKE, 0.74, "I say bona fide only below 0.45"),
        (Label.BONA_FIDE, 0.21, "I say deepfake only from 0.69 on"),
    ],
)
def test_where_verdicts_begin_is_told(label: Label, score: float, turned: str) -> None:
    face = analysed(label)
    face = replace(face, verdict=replace(face.verdict, score=score))
    meaning, why, change = (
        Question("", family, form, 0)
        for family, form in (("score", "open"), ("score", "why"), ("counter", "change"))
    )
    zone, prompts = (0.45, 0.69), load_prompts(2)

    known = known_from(face, zone)
    assert known is not None
    told = answer(meaning, known, prompts)

    assert f"{score:.2f}" in told
    assert told.endswith("narrowly." if label is Label.DEEPFAKE else "clearly.")
    for said in (told, answer(why, known, prompts)):
        assert "From 0.69 on I say deepfake, below 0.45 bona fide, between them I do not decide." in said
        assert len(said.split()) <= 50
    assert answer(change, known, prompts).endswith(f"{turned}.")
    for said in (told, answer(why, known, prompts), answer(change, known, prompts)):
        assert answer_or_none(said, deepfake=label is Label.DEEPFAKE, artifacts=()) == said


def test_who_asks_for_percent_gets_what_the_score_means() -> None:
    face = analysed(Label.DEEPFAKE)
    face = replace(face, verdict=replace(face.verdict, score=0.74))
    asked = understood("How sure are you, in percent?", {"score/probability": 5.0, "verdict/open": 0.0})

    fitted, raw = (
        known_from(replace(face, verdict=replace(face.verdict, calibrated=calibrated)))
        for calibrated in (True, False)
    )

    assert fitted is not None
    assert "about 74 of 100 faces with this score are deepfakes" in answer(asked, fitted, load_prompts(2))
    assert raw is not None
    assert "it is no probability" in answer(asked, raw, load_prompts(2))


def test_a_patch_on_the_cheek_is_asked_about_the_cheek() -> None:
    scores = {"things/open": 5.0, "region/seen": 0.0}

    patch = understood("What is that patch on the cheek?", scores)
    wall = understood("What is that in the background?", scores)

    assert (patch.family, patch.form, patch.region) == ("region", "seen", Region.CHEEKS)
    assert wall.family == "things"


def test_the_words_for_a_user_come_alone() -> None:
    user, summary = Question("", "plain", "user", 0), Question("", "summary", "open", 0)

    assert not told_together(user, summary)


def test_a_zone_that_did_not_make_the_verdict_is_not_told() -> None:
    face = analysed(Label.BONA_FIDE)
    face = replace(face, verdict=replace(face.verdict, score=0.6))

    known = known_from(face, (0.45, 0.69))

    assert known is not None
    assert known.zone is None


def test_a_face_unlike_the_training_is_not_said_to_lack_score() -> None:
    face = analysed(Label.UNDETERMINED)
    strange = replace(face.verdict, score=0.9, abstain=Abstain.UNLIKE_TRAINING)

    known = known_from(replace(face, verdict=strange), (0.45, 0.69))

    assert known is not None
    told = answer(Question("", "score", "open", 0), known, load_prompts(2))
    assert Abstain.UNLIKE_TRAINING.words in told
    assert "too little" not in told
    assert answer_or_none(told) == told


def test_how_large_the_face_is_is_told_when_that_is_asked_and_it_was_searched_for() -> None:
    points = tuple(Point(float(x), 50.0) for x in range(5))
    found = replace(FACE, box=Box(0.0, 0.0, 83.2, 110.0), landmarks=points)
    small, covered = (
        Question(text, "limits", "picture", 0) for text in ("Is it too small?", "And the mask?")
    )

    said = [
        answer(asked, known, load_prompts(2))
        for asked, face in ((small, found), (small, replace(FACE, landmarks=None)), (covered, found))
        if (known := known_from(analysed(Label.UNDETERMINED, face=face))) is not None
    ]

    assert "83 pixels wide, and I judge none below 40" in said[0]
    assert "pixels" not in said[1]
    assert "pixels" not in said[2]


def test_more_than_two_parts_are_told_of_at_once() -> None:
    known = known_from(analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)))
    text = "One line each: eyes, nose, mouth, background and the border of the face."

    asked = understood(text, LEVEL | {"compare/each": 9.0})

    assert known is not None
    regions = [asked.region, *(region for region, _ in asked.others)]
    assert regions == [Region.EYES, Region.NOSE, Region.MOUTH, Region.BACKGROUND, Region.FACE_BOUNDARY]
    assert answer(asked, known, load_prompts(2)).endswith(
        "I see no artifact in the eyes, the mouth or the edge of the face."
    )


def test_the_strongest_of_several_parts_are_named() -> None:
    touches = [(Region.NOSE, 0.95), (Region.MOUTH, 0.95), (Region.EYES, 0.1)]
    known = known_from(analysed(Label.DEEPFAKE, *(Touch(part, Kind.SOFTER, much) for part, much in touches)))
    assert known is not None

    asked = understood("Nose, mouth or eyes, which is worst?", LEVEL | {"compare/open": 9.0})

    assert answer(asked, known, load_prompts(2)).startswith("Rather in the nose and in the mouth: ")


def test_the_edge_is_compared_only_where_it_is_named_as_a_part() -> None:
    blending, edge = (
        understood(text, LEVEL | {"compare/open": 9.0})
        for text in (
            "Which is worse, the blending of the eyes or of the mouth?",
            "Compare the eyes, the mouth and the edge of the face.",
        )
    )

    assert [region for region, _ in blending.others] == [Region.MOUTH]
    assert [region for region, _ in edge.others] == [Region.MOUTH, Region.FACE_BOUNDARY]


def test_artifacts_that_the_score_does_not_need_speak_against_it() -> None:
    face = analysed(
        Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7), Touch(Region.MOUTH, Kind.SOFTER, 0.4)
    )
    idle = replace(face.rationale[0], effect=Effect(0.5, 0.5, 0.5, 0.5))
    known = known_from(replace(face, rationale=(idle, face.rationale[1])))
    assert known is not None

    said = answer(Question("", "counter", "against", 0), known, load_prompts(2))

    assert "hiding the nose lowers the score no more than hiding a control region" in said


def test_an_answer_beside_the_face_tells_the_verdict_where_the_question_speaks_of_it() -> None:
    known = known_from(analysed(Label.DEEPFAKE))
    assert known is not None

    about, beside = (
        answer(Question(text, "other_media", "open", 0), known, load_prompts(2))
        for text in ("Somebody reported this as AI. Are they right?", "And the other frames?")
    )

    assert about.startswith(beside)
    assert "deepfake" in about
    assert "deepfake" not in beside


def test_the_map_is_told_by_its_highest_regions() -> None:
    face = analysed(Label.BONA_FIDE)
    corners = (Point(0, 0), Point(1, 0), Point(1, 1), Point(0, 1))
    mapped = replace(face, foreign=ForeignMap(1, b"\xff", corners, (Region.NOSE, Region.MOUTH)))
    known = known_from(mapped)
    assert known is not None

    said = answer(Question("", "about", "map", 0), known, load_prompts(2))

    assert said.endswith("It is highest at the nose and the mouth here.")


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("undetermined", "Undetermined"),
        ("bona fide", "By bona fide"),
        ("an artefact", "An artifact"),
        ("it", "Deepfakes"),
    ],
)
def test_what_a_word_of_the_field_means(word: str, meaning: str) -> None:
    known = known_from(analysed(Label.BONA_FIDE))
    assert known is not None

    said = answer(Question(f"What is {word}?", "technique_meant", "meant", 0), known, load_prompts(2))

    assert said.startswith(meaning)


def test_two_parts_are_only_listed_when_nothing_is_compared() -> None:
    soft = [Touch(region, Kind.SOFTER, 0.7) for region in (Region.NOSE, Region.MOUTH)]
    sharp = Touch(Region.EYES, Kind.SHARPER, 0.4)
    known = known_from(analysed(Label.DEEPFAKE, *soft, sharp))
    assert known is not None

    listed, alike, apart = (
        answer(understood(text, LEVEL | {f"compare/{form}": 2.0}), known, load_prompts(2))
        for text, form in (
            ("Nose and mouth?", "each"),
            ("Is the nose worse than the mouth?", "open"),
            ("Is the mouth worse than the eyes?", "open"),
        )
    )

    assert listed.startswith("The nose and the mouth are")
    assert alike.startswith("Both alike: the nose and the mouth")
    assert apart.startswith("Rather in the mouth: ")


@pytest.mark.parametrize(
    ("score", "told"),
    [(0.97, "high; the score"), (0.8, "medium; the score"), (0.6, "low; the score")],
)
def test_how_sure_it_is_follows_the_score(score: float, told: str) -> None:
    for label, own in ((Label.DEEPFAKE, score), (Label.BONA_FIDE, 1 - score)):
        face = analysed(label)
        known = known_from(replace(face, verdict=replace(face.verdict, score=own)))
        assert known is not None

        said = answer(Question("", "certainty", "open", 0), known, load_prompts(2))
        assert f"My confidence is {told}" in said


@pytest.mark.parametrize(
    "face",
    [
        pytest.param(lambda: analysed(Label.BONA_FIDE), id="bona fide"),
        pytest.param(lambda: analysed(Label.UNDETERMINED), id="undecided"),
        pytest.param(lambda: analysed(Label.DEEPFAKE), id="nothing named"),
        pytest.param(
            lambda: analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)), id="one artifact"
        ),
        pytest.param(
            lambda: analysed(
                Label.DEEPFAKE, Touch(Region.UNMAPPED, Kind.PATTERN, 0.5), technique=Technique.EFS
            ),
            id="the whole picture",
        ),
    ],
)
def test_however_a_question_is_put_it_gets_an_answer(face: Callable[[], FaceAnalysis]) -> None:
    analysis = face()
    known = known_from(analysis)
    assert known is not None
    forms = {
        "places": ("rank", "list", "least", "most", "more", "much", "where"),
        "region": ("effect", "explained", "open", "sure"),
        "evidence": ("why", "enough", "visible", "genuine"),
        "scope": ("open", "method"),
        "boundary": ("fits",),
        "compare": ("each", "open"),
        "challenge": ("agrees", "disagrees", "says_real"),
        "counter": ("wrong", "change"),
        "plain": ("user",),
        "score": ("why", "probability"),
        "limits": ("rates", "bias", "picture"),
        "technique": ("before",),
        "who": ("exists",),
        "about": ("map", "insult", "language", "stored", "thanks", "model", "repeat", "console", "distress"),
        "technique_meant": ("signs", "meant"),
    }

    for family, form in ((family, form) for family, each in forms.items() for form in each):
        other = (Region.MOUTH, Noun("mouth"))
        others = (other,) if family == "compare" else ()
        asked = Question("", family, form, 0, Region.NOSE, Noun("nose"), others)
        said = answer(asked, known, load_prompts(2))
        deepfake = None if known.deepfake is None else known.deepfake
        artifacts = analysis.rationale if known.artifacts is not None else None
        assert answer_or_none(said, deepfake=deepfake, artifacts=artifacts) == said, (family, form)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Did someone tamper with the right cheek?", "region/forged"),
        ("Nothing wrong with the eyes, is there?", "region/open"),
        ("Is the nose without artifacts?", "region/open"),
        ("Can you just check the eyes?", "region/natural"),
    ],
)
def test_words_that_look_alike_change_nothing(text: str, form: str) -> None:
    sure = {"region/forged": 5.0, "region/natural": 0.0} | {form: 9.0}

    asked = understood(text, sure)

    assert f"{asked.family}/{asked.form}" == form


def test_a_side_that_was_stated_is_kept() -> None:
    says = understood("It is fake, right?", {"challenge/says_fake": 9.0, "challenge/says_real": 0.0})

    assert says.form == "says_fake"


def test_why_it_is_undecided_is_said() -> None:
    known = known_from(analysed(Label.UNDETERMINED))
    assert known is not None

    said = answer(understood("Why can't you decide?", LEVEL | {"reasons/open": 5.0}), known, load_prompts(2))

    assert Abstain.NEAR_THRESHOLD.words in said


def test_who_agrees_is_not_contradicted() -> None:
    face = analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7))
    known = known_from(face)
    assert known is not None

    agreed, denied = (
        answer(Question(text, "challenge", form, 0), known, load_prompts(2))
        for text, form in (("I agree.", "agrees"), ("I disagree.", "disagrees"))
    )

    assert "too" in agreed
    assert "too" not in denied


def test_yes_and_no_are_left_out_when_it_is_not_clear_which_way_round_the_question_is() -> None:
    assert (
        understood("Is that so?", SCORES | {"verdict/real": 0.5}).form == "open"
    )  # real is as likely as fake
    assert understood("Is that so?", SCORES | {"verdict/real": -3.0}).form == "fake"


def test_a_head_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    names = ("verdict/open", "who/open")
    term = LowRank(torch.randn(2, 4), torch.randn(6, 2))
    head = IntentHead((1, 3), names, Attending(8, 2, inner=8, queries=3).eval(), {"0.mlp.up_proj": term})
    save_intents(head, tmp_path / "intents.safetensors")
    states, x = torch.randn(2, 5, 4), torch.randn(3, 4)

    again = load_intents(tmp_path / "intents.safetensors")

    assert (again.depths, again.intents, again.width) == (head.depths, head.intents, 4)
    assert again.scores(states, slice(1, 4)) == pytest.approx(head.scores(states, slice(1, 4)), abs=0.02)
    torch.testing.assert_close(again.adapter["0.mlp.up_proj"](x), term(x), atol=0.02, rtol=0.02)


def test_reading_is_learnt_and_the_order_of_words_with_it(tiny: BundleSpec) -> None:
    """Two questions of the same words: only their order parts them."""
    bundle = load_bundle(tiny, device=torch.device("cpu"), dtype=torch.float32)
    taught = [
        Taught(text, intent, text)
        for text, intent in (("mouth nose eyes", "verdict/open"), ("eyes nose mouth", "who/open"))
        for _ in range(64)
    ]

    head, read = fit_intents(bundle, taught, taught, epochs=30)

    assert (read.questions, read.families, read.intents) == (128, 1.0, 1.0)
    assert set(head.adapter) >= {"0.self_attn.q_proj", "0.mlp.down_proj"}
    with closing(an_engine(bundle)) as engine:
        for text, intent in {each.text: each.intent for each in taught}.items():
            tokens, place = asked_alone(bundle.prompts, bundle.codec, text)
            states = engine.states(tokens, depths=head.depths, adapter=head.adapter)
            scores = head.scores(states, place)
            assert max(scores, key=scores.__getitem__) == intent


def an_engine(bundle: Bundle) -> Engine:
    plan = Plan(technique=False, rationale=False, slots=1)
    return Engine.of(bundle, route=lambda _margin, _mass: Route.LEAVE, plan=plan)


def test_what_a_text_is_read_with_is_gone_after_it(tiny: BundleSpec) -> None:
    bundle = load_bundle(tiny, device=torch.device("cpu"), dtype=torch.float32)
    tokens, _ = asked_alone(bundle.prompts, bundle.codec, "Is the nose real?")
    layer = bundle.model.model.language_model.layers[0].self_attn.q_proj
    term = LowRank(torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1))
    with closing(an_engine(bundle)) as engine:
        before = engine.states(tokens, depths=(1,), adapter={})
        within = engine.states(tokens, depths=(1,), adapter={"0.self_attn.q_proj": term})
        after = engine.states(tokens, depths=(1,), adapter={})

    assert not torch.allclose(before, within)
    assert torch.equal(before, after)


def with_intents(spec: BundleSpec, folder: Path, head: IntentHead) -> BundleSpec:
    copied = read_bundle(copy_of(spec, folder))
    save_intents(head, copied.folder / "intents.safetensors")
    return write_card(replace(copied, intents="intents.safetensors"))


def always(intent: str, *, width: int) -> IntentHead:
    attending = Attending(width, 2, inner=8).eval()
    with torch.no_grad():
        attending.out.weight.zero_()
        attending.out.bias.copy_(torch.tensor([1.0, 0.0]))
    return IntentHead((1,), (intent, "verdict/open"), attending)


def width_of(spec: BundleSpec) -> int:
    config = json.loads((spec.folder / "config.json").read_text(encoding="utf-8"))
    return int(config["text_config"]["hidden_size"])


def test_the_states_are_those_of_the_model_at_that_depth(tiny: BundleSpec) -> None:
    detector = Detector.load(tiny.folder, device="cpu", policy=Policy(), slots=2)
    bundle = detector.bundle
    tokens, place = asked_alone(bundle.prompts, bundle.codec, "Is the nose real?")

    states = detector._engine.states(tokens, depths=(1, 2), adapter={})

    detector.close()
    plain = load_bundle(tiny, device=torch.device("cpu"), dtype=torch.float32).model.model.language_model
    with torch.inference_mode():
        out = plain(torch.tensor([tokens]), output_hidden_states=True)
    torch.testing.assert_close(states[0], out.hidden_states[1][0].float(), atol=2e-3, rtol=2e-2)
    assert bundle.codec.decode(list(tokens[place])).strip() == "Is the nose real?"


def test_a_bundle_with_a_head_answers_from_the_analysis(tiny: BundleSpec, tmp_path: Path) -> None:
    head = always("who/open", width=width_of(tiny))
    spec = with_intents(tiny, tmp_path / "reads", head)
    detector = Detector.load(spec.folder, device="cpu", policy=Policy(), slots=2)
    face = analysed(Label.BONA_FIDE)

    said = "".join(detector.converse(a_crop(detector.image_size), [], "Who is this?", about=face))

    assert said in UNKNOWABLE["who"]
    detector.close()


def test_artifacts_in_other_words_are_left_to_the_language_model() -> None:
    face = replace(analysed(Label.DEEPFAKE), rationale=(Artifact("Nose", "It looks odd.", (Region.NOSE,)),))

    assert known_from(face) is None


def test_a_broken_or_foreign_head_is_refused(tiny: BundleSpec, tmp_path: Path) -> None:
    foreign = with_intents(tiny, tmp_path / "foreign", always("who/open", width=3))
    broken = read_bundle(copy_of(tiny, tmp_path / "broken"))
    save_file({"weight": torch.zeros(1)}, broken.folder / "intents.safetensors")
    broken = write_card(replace(broken, intents="intents.safetensors"))

    for spec in (foreign, broken):
        with pytest.raises(BundleMismatch):
            load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)


def test_what_is_known_is_what_the_analysis_shows() -> None:
    nose = Touch(Region.NOSE, Kind.SOFTER, 0.7)
    known = known_from(analysed(Label.DEEPFAKE, nose, technique=Technique.FE))

    assert known is not None
    assert known.deepfake
    assert known.technique is Technique.FE
    assert known.artifacts is not None
    assert [(one.touch.region, one.touch.kind, one.sentence) for one in known.artifacts] == [
        (Region.NOSE, Kind.SOFTER, SOFT_NOSE)
    ]


def test_nothing_is_said_of_an_undecided_face() -> None:
    known = known_from(analysed(Label.UNDETERMINED, Touch(Region.NOSE, Kind.SOFTER, 0.7)))
    assert known is not None
    asked = ("Is it fake?", "Is the nose real?", "Are the eyes real?", "Is it a face swap?", "nose or mouth?")

    by_region = SCORES | {"region/natural": 5.0}
    said = {question: answer(understood(question, by_region), known, load_prompts(2)) for question in asked}

    assert all("undecided" in text or "cannot decide" in text for text in said.values()), said
    assert "whether the nose was changed" in said["Is the nose real?"]


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("So what explains the colour of the lips?", "region/colour"),
        ("Is the skin dark, should I worry?", "tone/natural"),
        ("Are you sure that this is not fake?", "verdict/fake"),
        ("Could it be a swap instead of an edit?", "verdict/fake"),
        ("Is one part of the mouth a different shade?", "region/natural"),
        ("Is the mouth okay there?", "region/forged"),
    ],
)
def test_where_a_yes_or_a_no_would_say_something_else_there_is_none(text: str, intent: str) -> None:
    for face in (
        analysed(Label.BONA_FIDE),
        analysed(Label.DEEPFAKE, Touch(Region.MOUTH, Kind.COLOUR, 0.7), technique=Technique.FE),
    ):
        assert not said_of(face, text, intent).startswith(("Yes", "No,", "No:"))


def test_what_a_generated_picture_shows_takes_up_the_question() -> None:
    face = analysed(Label.DEEPFAKE, technique=Technique.EFS)

    colour = said_of(face, "The nose is redder than the rest, an artifact?", "region/colour")
    filtered = said_of(face, "Is the chin so smooth from a beauty filter?", "region/explained")

    assert colour.startswith(
        "I single out no wrong colour there: the whole picture looks generated, the nose"
    )
    assert filtered.startswith("A filter can look like that, but the whole picture looks generated")


@pytest.mark.parametrize(
    ("text", "intent", "told"),
    [
        ("How certain, on a scale from 0 to 100?", "certainty/open", "no probability"),
        (
            "Would airbrushing count as a forgery?",
            "skin/natural",
            "a filter, other light or a crop makes none",
        ),
        ("Can blur explain what you see on the mouth and the chin?", "compare/open", "blur can hide one"),
        ("Does the hair influence the verdict?", "limits/picture", "How much the hair counts"),
        ("Does the plain background matter?", "limits/picture", "face itself"),
        ("How symmetric are the brows and the smile?", "compare/open", "whether the two sides match"),
        ("The eyes are shut, so what do you rely on?", "limits/picture", "artifact"),
        ("A brown blob at the top, is that fake?", "verdict/fake", "details such as the blob"),
    ],
)
def test_words_that_say_more_than_the_intent_decide(text: str, intent: str, told: str) -> None:
    face = analysed(Label.BONA_FIDE)
    uncalibrated = replace(face, verdict=replace(face.verdict, calibrated=False))

    assert told in said_of(uncalibrated, text, intent)


def test_and_the_nose_asks_what_was_asked_before() -> None:
    scores = LEVEL | {"region/open": 5.0}

    assert understood("And the nose?", scores, ["What if I hide the mouth?"]).form == "effect"
    assert understood("And the nose?", scores, ["Is the mouth real?"]).form == "open"
    assert understood("And the nose, is it real or painted on?", scores, ["Hide the mouth?"]).form == "open"


def test_smooth_skin_is_told_as_smoothing() -> None:
    asked, intent = "Does the skin look too smooth?", "skin/forged"

    assert said_of(analysed(Label.BONA_FIDE), asked, intent) == "No, I see no smoothing in the skin."
    generated = said_of(analysed(Label.DEEPFAKE, technique=Technique.EFS), asked, intent)
    assert (
        generated == "I single out no smoothing there: the whole picture looks generated, the skin included."
    )


def test_what_a_spot_is_nobody_can_tell() -> None:
    asked = "What is the patch below the lip, a mole or a glitch?"

    clean = said_of(analysed(Label.BONA_FIDE), asked, "region/explained")
    elsewhere = said_of(
        analysed(Label.DEEPFAKE, Touch(Region.NOSE, Kind.SOFTER, 0.7)), asked, "region/explained"
    )

    assert clean == "What the patch is I cannot tell, and I see no artifact in the lip."
    assert elsewhere.startswith("What the patch is I cannot tell: I see no artifact in the lip")


def test_what_harms_the_judgement_of_a_part_names_it() -> None:
    said = said_of(analysed(Label.BONA_FIDE), "Are the eyes too dark to judge?", "limits/picture")

    assert said.startswith("It may matter for the eyes: a dark or overexposed picture can hide traces")


def test_no_yes_stands_beside_what_cannot_be_judged() -> None:
    said = said_of(analysed(Label.BONA_FIDE), "Does the ring on the nose look right?", "region/natural")

    assert not said.startswith("Yes")
    assert said.endswith("I cannot judge the ring, only the face.")
