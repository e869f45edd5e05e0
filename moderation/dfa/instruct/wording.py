"""From facts to words: the answers of DFA-Instruct, written only from what is known by construction.

The wording of an artifact depends on its region, kind and strength. All three come from the picture's own facts, and no
sentence says more than the facts. `sentences.py` holds the sentences about artifacts, `talk.py` the free conversation.
"""

from collections.abc import Sequence

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.instruct import talk
from moderation.dfa.instruct.forgery.facts import Kind, Rng, Touch
from moderation.dfa.instruct.sentences import worded
from moderation.dfa.instruct.talk import Known, Shown

#: Most artifacts of one answer. People read no more.
MOST_ARTIFACTS = 3


def artifacts(facts: Sequence[Touch], prompts: PromptSet) -> list[tuple[str, str]]:
    """(heading, sentence) for each touched region once: seams first, then by strength, at most `MOST_ARTIFACTS`."""
    named = named_touches(facts)
    return [(prompts.headings[touch.region][0], worded(touch, named)) for touch in named]


def named_touches(facts: Sequence[Touch]) -> list[Touch]:
    """The changes that an answer names, in its order."""
    strongest: dict[Region, Touch] = {}
    for touch in sorted(facts, key=lambda touch: (touch.kind is not Kind.SEAM, -touch.strength)):
        strongest.setdefault(touch.region, touch)
    return list(strongest.values())[:MOST_ARTIFACTS]


def description(facts: Sequence[Touch], prompts: PromptSet) -> str:
    """The AD answer."""
    return prompts.artifacts_answer(artifacts(facts, prompts))


def known(*, deepfake: bool, technique: Technique | None, facts: Sequence[Touch] | None) -> Known:
    """What a conversation may say about a face."""
    if facts is None:
        return Known(deepfake, technique, None)
    named = named_touches(facts)
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
    """One conversation about one face, in the served order: DF-D, DF-C, AD, FC.

    An unknown technique or unknown facts are not asked for. Three in four questions have the served wording. Turns
    after the verdict are sometimes left out, as when the engine exits early.
    """
    turns = [(_asked(prompts.detection, rng), prompts.verdict_answer(deepfake=deepfake))]
    if deepfake and technique is not None and rng.random() < 0.9:
        turns.append((_asked(prompts.classification, rng), prompts.technique_answers[technique]))
    if facts is not None and rng.random() < (0.95 if deepfake else 0.6):
        turns.append((_asked(prompts.description, rng), description(facts, prompts)))
    return _with_free_turns(turns, known(deepfake=deepfake, technique=technique, facts=facts), prompts, rng)


#: Shares of conversations with free questions after the served turns, and with free questions only.
FOLLOWED, ALONE = 0.4, 0.1
#: Share of the former that repeat a served question.
AGAIN = 0.15
#: How many free questions, and how often. The picture costs as much as eight of them, so some ask many.
MANY, OFTEN = (1, 2, 4, 8), (0.35, 0.25, 0.2, 0.2)


def _with_free_turns(
    turns: list[tuple[str, str]], known: Known, prompts: PromptSet, rng: Rng
) -> list[tuple[str, str]]:
    drawn = rng.random()
    if drawn >= FOLLOWED + ALONE:
        return turns
    free = talk.conversation(known, prompts, rng, turns=int(rng.choice(MANY, p=OFTEN)))
    if drawn < ALONE:
        return free
    if rng.random() < AGAIN:
        free[-1] = talk.asked_again(known, prompts, rng)
    return turns + free


def _asked(wordings: Sequence[str], rng: Rng) -> str:
    return wordings[0] if rng.random() < 0.75 else wordings[int(rng.integers(len(wordings)))]
