"""Facts into words: the answers of DFA-Instruct, written from what is known by construction and from nothing else.

The wording of an artifact depends on its region, its kind and whether it is strong; the picture's own facts choose
all three. No sentence says more than the facts do.

Here are the ten sentences of prompt set 1 and what both sets share; set 2's are in `sentences.py` and `talk.py`.
"""

from collections.abc import Mapping, Sequence

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.instruct import talk
from moderation.dfa.instruct.forgery.facts import Kind, Rng, Touch
from moderation.dfa.instruct.questions import every
from moderation.dfa.instruct.sentences import worded
from moderation.dfa.instruct.talk import Known, Shown

#: From this strength a change is called clear.
CLEAR = 0.35

#: What a region is called in the middle of a sentence.
NAMES: Mapping[Region, str] = {
    Region.FOREHEAD: "forehead",
    Region.HAIRLINE: "hairline",
    Region.EYES: "eye region",
    Region.NOSE: "nose",
    Region.CHEEKS: "cheek area",
    Region.MOUTH: "mouth region",
    Region.JAWLINE: "jawline",
    Region.FACE_BOUNDARY: "edge of the face",
    Region.SKIN: "skin",
    Region.UNMAPPED: "whole picture",
}

#: One sentence per kind: for a clear change, then for a slight one.
SENTENCES: Mapping[Kind, tuple[str, str]] = {
    Kind.SEAM: (
        "A clear seam runs along the {name}, where colour and texture change abruptly.",
        "A slight seam runs along the {name}, where two textures meet.",
    ),
    Kind.COLOUR: (
        "The colours of the {name} clearly differ from the surrounding face.",
        "The colours of the {name} differ slightly from the surrounding face.",
    ),
    Kind.SOFTER: (
        "The {name} is clearly more blurred than its surroundings and lacks fine detail.",
        "The {name} is slightly softer than its surroundings.",
    ),
    Kind.SHARPER: (
        "The {name} is clearly sharper and noisier than its surroundings.",
        "The {name} is slightly sharper than its surroundings.",
    ),
    Kind.REPLACED: (
        "The {name} clearly does not match the rest of the face in texture and light.",
        "The {name} does not quite match the rest of the face.",
    ),
    Kind.SMOOTHED: (
        "The {name} is unnaturally smooth, without pores or fine lines.",
        "The {name} is a little too smooth.",
    ),
    Kind.WARPED: (
        "The shape of the {name} is clearly distorted, with stretched texture.",
        "The shape of the {name} is slightly distorted, with blurred detail.",
    ),
    Kind.PATTERN: (
        "The {name} shows the regular fine pattern and uniform texture of a generator.",
        "The {name} shows a faint regular pattern and uniform texture.",
    ),
}

#: Strongest first, and no more than a person reads.
MOST_ARTIFACTS = 3


def sentence(touch: Touch) -> str:
    """One artifact in words."""
    clear, slight = SENTENCES[touch.kind]
    return (clear if touch.strength >= CLEAR else slight).format(name=NAMES[touch.region])


def artifacts(facts: Sequence[Touch], prompts: PromptSet) -> list[tuple[str, str]]:
    """(heading, sentence) for each region that was touched: a seam, then by strength; each region once."""
    named = told(facts)
    if prompts.version == 1:
        return [(prompts.headings[touch.region][0], sentence(touch)) for touch in named]
    return [(prompts.headings[touch.region][0], worded(touch, named)) for touch in named]


def told(facts: Sequence[Touch]) -> list[Touch]:
    """The changes that an answer tells of, in its order."""
    strongest: dict[Region, Touch] = {}
    for touch in sorted(facts, key=lambda touch: (touch.kind is not Kind.SEAM, -touch.strength)):
        strongest.setdefault(touch.region, touch)
    return list(strongest.values())[:MOST_ARTIFACTS]


def description(facts: Sequence[Touch], prompts: PromptSet) -> str:
    """The AD answer."""
    return prompts.artifacts_answer(artifacts(facts, prompts))


#: Questions of FC and the region they are about: those of the prompt set that the facts can answer, and more.
ASKED: Mapping[str, Region] = {
    "Do the eyes look natural?": Region.EYES,
    "Does the mouth look forged?": Region.MOUTH,
    "Is the skin texture consistent across the face?": Region.SKIN,
    "Is there a visible seam along the jawline?": Region.FACE_BOUNDARY,
    "Does the nose look natural?": Region.NOSE,
    "Is anything wrong with the forehead?": Region.FOREHEAD,
    "Do the cheeks look natural?": Region.CHEEKS,
    "Is the jaw distorted?": Region.JAWLINE,
}


def conversation(
    technique: Technique | None, facts: Sequence[Touch], prompts: PromptSet, rng: Rng, turns: int = 1
) -> list[tuple[str, str]]:
    """FC turns about single regions, answered from the facts."""
    touched = {touch.region: touch for touch in facts}
    questions = list(ASKED)
    asked = [questions[index] for index in rng.choice(len(questions), size=turns, replace=False)]
    return [(question, _about(ASKED[question], touched, technique, prompts)) for question in asked]


def _about(
    region: Region, touched: Mapping[Region, Touch], technique: Technique | None, prompts: PromptSet
) -> str:
    if region in touched:
        return sentence(touched[region])
    if technique is Technique.EFS:
        return prompts.technique_explanations[technique]
    return f"I see no artifact in the {NAMES[region]}."


def free_turns(
    deepfake: bool,  # noqa: FBT001  what is known, in the order of `dialogue`
    technique: Technique | None,
    facts: Sequence[Touch] | None,
    prompts: PromptSet,
    rng: Rng,
    turns: int,
) -> list[tuple[str, str]]:
    """FC alone: questions as people put them, answered from the facts. Of set 1, none where the facts are unknown."""
    if prompts.version == 1:
        return [] if facts is None else conversation(technique, facts, prompts, rng, turns)
    return talk.conversation(known(deepfake=deepfake, technique=technique, facts=facts), prompts, rng, turns)


def known(*, deepfake: bool, technique: Technique | None, facts: Sequence[Touch] | None) -> Known:
    """What a conversation may say of a face."""
    if facts is None:
        return Known(deepfake, technique, None)
    named = told(facts)
    shown = tuple(Shown(touch, worded(touch, named)) for touch in named)
    return Known(deepfake, technique, shown, frozenset(touch.region for touch in facts if touch not in named))


def dialogue(
    *,
    deepfake: bool,
    technique: Technique | None,
    facts: Sequence[Touch] | None,
    prompts: PromptSet,
    rng: Rng,
) -> list[tuple[str, str]]:
    """One conversation about one face, in the order in which it is served: DF-D, DF-C, AD, FC.

    What is not known (the technique, the facts) is not asked for. Three in four questions are the served wording, and
    turns after the verdict are sometimes left out, as they are where the engine leaves early.
    """
    turns = [(_asked(prompts.detection, rng), prompts.verdict_answer(deepfake=deepfake))]
    if deepfake and technique is not None and rng.random() < 0.9:
        turns.append((_asked(prompts.classification, rng), prompts.technique_answers[technique]))
    if facts is not None and rng.random() < (0.95 if deepfake else 0.6):
        turns.append((_asked(prompts.description, rng), description(facts, prompts)))
    if prompts.version != 1:
        return _with_free_turns(
            turns, deepfake=deepfake, technique=technique, facts=facts, prompts=prompts, rng=rng
        )
    if facts is not None and rng.random() < 0.3:
        turns += conversation(technique, facts, prompts, rng, turns=1 + int(rng.random() < 0.3))
    if facts is not None and rng.random() < 0.08:
        return conversation(technique, facts, prompts, rng)  # a question may also come first
    return turns


#: Shares of the conversations of set 2 in which questions follow the served turns, and in which they come first.
FOLLOWED, ALONE = 0.32, 0.08
#: Share of the former in which a served question is asked once more.
AGAIN = 0.15


def _with_free_turns(
    turns: list[tuple[str, str]],
    *,
    deepfake: bool,
    technique: Technique | None,
    facts: Sequence[Touch] | None,
    prompts: PromptSet,
    rng: Rng,
) -> list[tuple[str, str]]:
    drawn = rng.random()
    if drawn >= FOLLOWED + ALONE:
        return turns
    free = free_turns(
        deepfake, technique, facts, prompts, rng, turns=1 + int(rng.choice(3, p=[0.5, 0.3, 0.2]))
    )
    if drawn < ALONE:
        return free
    if rng.random() < AGAIN:
        face = known(deepfake=deepfake, technique=technique, facts=facts)
        free[-1] = talk.asked_again(face, prompts, rng)
    return turns + free


def _asked(wordings: Sequence[str], rng: Rng) -> str:
    return wordings[0] if rng.random() < 0.75 else wordings[int(rng.integers(len(wordings)))]


def texts(prompts: PromptSet) -> list[str]:
    """What the facts are put into, and what is asked: what a small tokenizer is trained on, beside the prompt set."""
    touches = [
        Touch(region, kind, strength)
        for region in NAMES
        for kind in Kind
        for strength in (0.0, 0.4, 0.7, 1.0)
    ]
    if prompts.version != 1:
        answers = [text for family in talk.UNKNOWABLE.values() for text in family]
        asked = [question.text for question in every()]
        return [*prompts.texts(), *(worded(touch, [touch]) for touch in touches), *answers, *asked]
    free = [f"I see no artifact in the {name}." for name in NAMES.values()]
    ends = [touch for touch in touches if touch.strength in {0.0, 1.0}]
    return [*prompts.texts(), *map(sentence, ends), *free, *map(prompts.ask, ASKED)]
