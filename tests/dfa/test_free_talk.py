"""Artifacts that follow the facts, and conversations that say no more and nothing else."""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from jinja2 import Environment

from moderation.analysis import Artifact, Region, Technique
from moderation.dfa.gpt.claims import beyond_the_face, contradiction, is_sentence
from moderation.dfa.gpt.grounding.answers import answer
from moderation.dfa.gpt.grounding.beside import MEANINGS, UNKNOWABLE
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.gpt.grounding.known import Known, Question, artifacts, description, known, named_touches
from moderation.dfa.gpt.grounding.sentences import BANDS, NOUNS, worded, worded_together
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.replies import read_reply
from moderation.dfa.instruct.filters import LEAKS, leaks, supported
from moderation.dfa.instruct.forgery.pairs import forge
from moderation.dfa.instruct.questions import as_typed, every, families, typed
from moderation.dfa.instruct.talk import SHARES, conversation, dialogue
from tests.dfa.drawn_faces import a_portrait

PROMPTS = load_prompts(2)

#: What transformers finds in SmolLM2-135M-Instruct, without the system prompt of its makers.
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

SEAM = Touch(Region.FACE_BOUNDARY, Kind.SEAM, 0.5)
SOFT_NOSE = Touch(Region.NOSE, Kind.SOFTER, 0.7)
FACES = {
    "bona fide": (False, None, ()),
    "a swap": (True, Technique.FS, (SEAM, SOFT_NOSE, Touch(Region.MOUTH, Kind.SOFTER, 0.4))),
    "an edit": (True, Technique.FE, (Touch(Region.EYES, Kind.SMOOTHED, 0.2),)),
    "a synthesis": (True, Technique.EFS, (Touch(Region.UNMAPPED, Kind.PATTERN, 0.5),)),
    "a swap without facts": (True, Technique.FS, None),
    "a deepfake of no known technique": (True, None, None),
}


def seen(name: str) -> Known:
    deepfake, technique, facts = FACES[name]
    return known(deepfake=deepfake, technique=technique, facts=facts)


def test_a_conversation_is_written_as_the_language_model_was_trained_to_read_it() -> None:
    turns = [("Is this face a deepfake?", "Yes."), ("Where are artifacts visible?", "No artifacts.")]
    messages = [{"role": "system", "content": PROMPTS.system}]
    for index, (question, said) in enumerate(turns):
        messages.append({"role": "user", "content": ("" if index else "<image>\n") + question})
        messages.append({"role": "assistant", "content": said})

    template = Environment(autoescape=False).from_string(CHATML)

    assert PROMPTS.dialogue(turns) + "\n" == template.render(messages=messages)
    opening = template.render(messages=messages[:2], add_generation_prompt=True)
    assert PROMPTS.open(turns[0][0]) == opening


@pytest.mark.parametrize("region", list(NOUNS))
def test_an_artifact_is_read_back_as_the_region_it_was_written_for(region: Region) -> None:
    reply = read_reply(description([Touch(region, Kind.SOFTER, 0.5)], PROMPTS))

    assert reply is not None
    assert [artifact.regions for artifact in reply.artifacts] == [(region,)]


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("region", list(NOUNS))
def test_words_of_strength_follow_the_strength(region: Region, kind: Kind) -> None:
    strengths = (0.0, *BANDS)

    sentences = [worded(Touch(region, kind, strength), []) for strength in strengths]

    assert len(set(sentences)) == len(strengths)
    assert sentences[0] == worded(Touch(region, kind, BANDS[0] - 0.01), [])


def test_what_a_seam_parts_is_what_the_regions_show() -> None:
    assert "softer" in worded(SEAM, [SEAM, SOFT_NOSE])
    assert "sharper" in worded(SEAM, [SEAM, Touch(Region.NOSE, Kind.SHARPER, 0.5)])
    assert worded(SEAM, [SEAM]) == "A seam runs around the face."


def test_a_swapped_region_is_held_against_what_was_left_and_an_edited_one_against_its_face() -> None:
    assert "outside the seam" in worded(SOFT_NOSE, [SEAM, SOFT_NOSE])
    assert "the face around it" in worded(SOFT_NOSE, [SOFT_NOSE])


def test_parts_that_show_the_same_are_told_in_one_sentence() -> None:
    eyes, cheeks, jaw = (
        Touch(region, Kind.SHARPER, 0.5) for region in (Region.EYES, Region.CHEEKS, Region.JAWLINE)
    )
    nose = Touch(Region.NOSE, Kind.SOFTER, 0.7)
    facts = [eyes, nose, cheeks, jaw]

    assert worded_together(facts, facts) == [
        "The eyes, the cheeks and the jaw stand out crisper and grainier than the face around them.",
        worded(nose, facts),
    ]
    assert worded_together([SEAM, eyes], [SEAM, eyes]) == [
        worded(SEAM, [SEAM, eyes]),
        worded(eyes, [SEAM, eyes]),
    ]


def test_a_hundred_forged_faces_are_not_described_with_ten_sentences() -> None:
    rng = np.random.default_rng(1)
    target, source = a_portrait(1), a_portrait(2)
    techniques = rng.choice(list(Technique), size=100, p=[0.34, 0.25, 0.25, 0.16])

    sentences = [
        text
        for technique in techniques
        for _, text in artifacts(
            supported(forge(Technique(technique), target, source, rng), target.face), PROMPTS
        )
    ]

    assert len(set(sentences)) >= 60


def test_the_same_facts_are_worded_alike() -> None:
    _, _, facts = FACES["a swap"]
    assert facts is not None

    assert description(facts, PROMPTS) == description(facts[::-1], PROMPTS)


def test_thousands_of_different_questions_are_asked() -> None:
    texts = {question.text for question in every()}

    assert len(texts) > 50_000
    assert not [text for text in texts if re.search(r"[(){}|*]|\s\s", text)]
    assert all(text[0].isupper() for text in texts)


def test_questions_as_they_are_typed_ask_for_what_the_grammar_asks_for() -> None:
    forms = {f"{question.family}/{question.form}" for question in every() if question.family != "detail"}
    asked = Counter(intent for intent, _ in typed())
    texts = Counter(" ".join(re.findall(r"\w+", text.lower())) for _, text in typed())

    assert set(asked) == forms
    assert min(asked.values()) >= 35
    assert [text for text, count in texts.items() if count > 1] == []


def test_every_family_is_asked() -> None:
    assert set(SHARES) == set(families())
    assert set(UNKNOWABLE) < set(SHARES)


def sampled(each: int = 12, *, part: int = 0, parts: int = 1) -> Iterator[Question]:
    """Some questions of every wording, or a part of them."""
    asked = Counter[tuple[str, str, int]]()
    for question in every():
        number = asked[question.family, question.form, question.wording]
        asked[question.family, question.form, question.wording] += 1
        if number < each and (number + question.wording) % parts == part:
            yield question


@pytest.mark.parametrize("name", list(FACES))
def test_every_question_has_a_short_plain_answer(name: str) -> None:
    face = seen(name)

    for question in sampled(part=list(FACES).index(name) % 3, parts=3):
        assert_plain(answer(question, face, PROMPTS), face)


@pytest.mark.parametrize("meaning", MEANINGS.values())
def test_a_word_of_the_field_is_explained_shortly_and_plainly(meaning: str) -> None:
    assert_plain(meaning, seen("a swap"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("What is a false positive?", "genuine face that is called a deepfake"),
        ("What does calibrated mean?", "fitted on labelled pictures"),
        ("What does undetermined mean, that it is a fake?", "I do not decide"),
    ],
)
def test_the_word_that_a_question_names_is_explained(asked: str, told: str) -> None:
    question = Question(asked, "technique_meant", "meant", 0)

    assert told in answer(question, seen("a swap"), PROMPTS)


def test_two_words_that_are_explained_together_differ_as_that_says() -> None:
    question = Question(
        "How does a GAN differ from diffusion?", "technique_meant", "difference", 0, technique=Technique.EFS
    )

    said = answer(question, seen("a swap"), PROMPTS)

    assert "step by step" in said
    assert "I take this face for a deepfake" in said


def assert_plain(said: str, face: Known) -> None:
    """An answer is a few sentences that claim nothing but what is known of the face."""
    shown = face.artifacts
    listed = None if shown is None else [Artifact("", each.sentence, (each.touch.region,)) for each in shown]

    assert re.fullmatch(r"[A-Z][^{}*_#<>\n]+\.", said), said
    assert len(said.split()) <= 50, said
    assert not leaks(said), (said, LEAKS)
    assert beyond_the_face(said) is None, said
    assert is_sentence(said), said
    assert contradiction(said, deepfake=face.deepfake, artifacts=listed) is None, said


def named(text: str) -> set[Region]:
    """The parts of a face that a text names."""
    return {
        region
        for region, noun in NOUNS.items()
        if region not in {Region.UNMAPPED, Region.LIGHTING} and re.search(rf"\b{noun.word}\b", text)
    }


@pytest.mark.parametrize("name", list(FACES))
def test_an_answer_names_no_region_but_those_asked_about_and_those_that_show_artifacts(name: str) -> None:
    face = seen(name)
    there = {shown.touch.region for shown in face.artifacts or ()}

    for question in sampled():
        if question.family == "technique_meant":
            continue
        about = {question.region, *(region for region, _ in question.others)}
        about |= {"boundary": {Region.FACE_BOUNDARY}, "skin": {Region.SKIN}}.get(question.family, set())
        said = answer(question, face, PROMPTS)

        assert named(said) <= there | about, (question.text, said)


@pytest.mark.parametrize(
    ("name", "form", "start"),
    [
        pytest.param("bona fide", "fake", "No, ", id="a bona fide face is no fake"),
        pytest.param("bona fide", "real", "Yes, ", id="and is real"),
        pytest.param("a swap", "fake", "Yes, ", id="a deepfake is a fake"),
        pytest.param("a swap", "real", "No, ", id="and not real"),
        pytest.param("a synthesis", "fake", "Yes, ", id="a synthesis is a fake"),
        pytest.param(
            "a deepfake of no known technique", "real", "No, ", id="one of which little is known too"
        ),
    ],
)
def test_an_answer_agrees_with_the_verdict(name: str, form: str, start: str) -> None:
    asked = [question for question in every() if (question.family, question.form) == ("verdict", form)]

    answers = [answer(question, seen(name), PROMPTS) for question in asked]

    assert asked
    assert all(said.startswith(start) for said in answers)


@pytest.mark.parametrize("form", ["natural", "forged"])
def test_a_region_is_answered_as_it_was_described(form: str) -> None:
    face = seen("a swap")
    nose = next(shown.sentence for shown in face.artifacts or () if shown.touch.region is Region.NOSE)

    for question in sampled():
        if question.family == "region" and question.form == form:
            said = answer(question, face, PROMPTS)
            if question.region is Region.NOSE:
                assert said == ("No, " if form == "natural" else "Yes, ") + nose[0].lower() + nose[1:]
            elif question.region is Region.HAIRLINE:
                assert "at the edge of the face, in the nose and in the mouth" in said


@pytest.mark.parametrize("name", ["a swap without facts", "a deepfake of no known technique"])
def test_where_nothing_is_known_no_region_is_pointed_to(name: str) -> None:
    for question in sampled():
        if question.family in {"places", "reasons", "summary"}:
            said = answer(question, seen(name), PROMPTS)
            assert "cannot point to one region" in said or "the face as a whole" in said


def test_nobody_is_asked_about_what_was_touched_and_not_told() -> None:
    facts = (SEAM, SOFT_NOSE, Touch(Region.MOUTH, Kind.SOFTER, 0.5), Touch(Region.EYES, Kind.SOFTER, 0.45))
    assert Region.EYES not in {touch.region for touch in named_touches(facts)}

    face = known(deepfake=True, technique=Technique.FS, facts=facts)
    turns = conversation(face, PROMPTS, np.random.default_rng(0), 400)

    assert not [said for _, said in turns if "artifact in the eye" in said]


def test_half_of_the_conversations_hold_free_questions_and_some_hold_many() -> None:
    rng = np.random.default_rng(4)
    served = {*PROMPTS.detection, *PROMPTS.classification, *PROMPTS.description}
    deepfake, technique, facts = FACES["a swap"]

    talks = [
        dialogue(deepfake=deepfake, technique=technique, facts=facts, prompts=PROMPTS, rng=rng)
        for _ in range(600)
    ]

    given = {"Yes.", *PROMPTS.technique_answers.values(), description(facts or (), PROMPTS)}
    free = [sum(said not in given for _, said in turns) for turns in talks]
    assert 0.45 < np.mean([count > 0 for count in free]) < 0.55
    assert max(free) == 8
    assert any(turns[0][0] not in served for turns in talks)
    again = {said for turns in talks for question, said in turns[1:] if question in PROMPTS.detection}
    assert again
    assert all(said.startswith("Yes, ") for said in again)


def test_people_in_a_hurry_ask_the_same() -> None:
    rng = np.random.default_rng(2)
    text = "Does the mouth look forged?"

    typed = {as_typed(text, rng) for _ in range(300)}

    assert len(typed) > 50
    assert all(sum(letter in "mouthforged" for letter in each.lower()) > 15 for each in typed)
