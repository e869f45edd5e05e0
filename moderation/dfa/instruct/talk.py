"""Conversations of DFA-Instruct: the served questions, and free conversation (FC), with their answers from the facts.

No sentence says more than the facts. `gpt/grounding` words them.
"""

from collections.abc import Mapping, Sequence

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.answers import answer
from moderation.dfa.gpt.grounding.facts import Touch
from moderation.dfa.gpt.grounding.known import Known, Question, description, known
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.instruct.draws import Rng, picked, weighted
from moderation.dfa.instruct.questions import as_typed, detailed, drawn, regions


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
    turns = [(_phrased(prompts.detection, rng), prompts.verdict_answer(deepfake=deepfake))]
    if deepfake and technique is not None and rng.random() < 0.9:
        turns.append((_phrased(prompts.classification, rng), prompts.technique_answers[technique]))
    if facts is not None and rng.random() < (0.95 if deepfake else 0.6):
        turns.append((_phrased(prompts.description, rng), description(facts, prompts)))
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
    free = conversation(known, prompts, rng, turns=int(rng.choice(MANY, p=OFTEN)))
    if drawn < ALONE:
        return free
    if rng.random() < AGAIN:
        free[-1] = asked_again(known, prompts, rng)
    return turns + free


def _phrased(wordings: Sequence[str], rng: Rng) -> str:
    return wordings[0] if rng.random() < 0.75 else picked(wordings, rng)


# --- free questions ---

#: How often each family is asked, relative to the others.
SHARES: Mapping[str, float] = {
    "region": 33, "detail": 5, "compare": 3, "match": 1, "boundary": 6, "light": 3, "tone": 3, "skin": 4,
    "verdict": 8, "technique": 4, "technique_named": 3, "technique_meant": 2,
    "certainty": 5, "reasons": 5, "summary": 3, "places": 8, "challenge": 5, "about": 2,
    "otherwise": 3, "counter": 3, "plain": 2, "score": 2, "limits": 3, "evidence": 2, "scope": 2, "next": 2,
    "who": 4, "attributes": 4, "where": 3, "when": 3, "intent": 4, "maker": 4, "sanction": 4, "other_media": 5,
    "text": 3, "off_topic": 6, "orders": 6, "quality": 4, "things": 3,
}  # fmt: skip


def conversation(known: Known, prompts: PromptSet, rng: Rng, turns: int) -> list[tuple[str, str]]:
    """`turns` random questions and their answers."""
    asked: list[tuple[str, str]] = []
    while len(asked) < turns:
        question = _asked(known, rng)
        if all(question.text != other for other, _ in asked):
            asked.append((as_typed(question.text, rng), answer(question, known, prompts)))
    return asked


def asked_again(known: Known, prompts: PromptSet, rng: Rng) -> tuple[str, str]:
    """A served question, asked again in free conversation and now answered in a sentence."""
    served = (prompts.detection, "verdict", "fake"), (prompts.classification, "technique", "open")
    wordings, family, form = picked(served, rng)
    index = int(rng.integers(len(wordings)))
    question = Question(wordings[index], family, form, index)
    return question.text, answer(question, known, prompts)


def _asked(known: Known, rng: Rng) -> Question:
    """A random question that the facts can answer, or that no picture can answer."""
    shares = SHARES
    if known.deepfake and known.artifacts is None:
        shares = {name: w / 4 if name in {"region", "detail", "compare"} else w for name, w in SHARES.items()}
    while True:
        family = weighted(shares, rng)
        region, other = None, None
        if family in {"region", "compare"}:
            region = _asked_region(known, regions(), rng)
        if family == "compare":
            other = _asked_region(known, [second for second in regions() if second is not region], rng)
        if family == "detail":
            region = _asked_region(known, detailed(), rng)
        technique = _asked_technique(known, rng) if family.startswith("technique_") else None
        question = drawn(family, rng, region=region, other=other, technique=technique)
        if _answerable(question, known):
            return question


def _asked_region(known: Known, regions: Sequence[Region], rng: Rng) -> Region:
    """One of the regions: in half of the cases one with an artifact, if there is one."""
    named = [shown.touch.region for shown in known.artifacts or () if shown.touch.region in regions]
    if named and rng.random() < 0.5:
        return picked(named, rng)
    others = [region for region in regions if region not in {*named, *known.untold}]
    # Questions about ears, neck and background are rarer.
    rare = {Region.EARS, Region.NECK, Region.BACKGROUND}
    return weighted({region: 0.3 if region in rare else 1.0 for region in others}, rng)


def _asked_technique(known: Known, rng: Rng) -> Technique:
    if known.technique is not None and rng.random() < 0.5:
        return known.technique
    return picked(list(Technique), rng)


def _answerable(question: Question, known: Known) -> bool:
    if (question.family, question.form) == ("places", "more"):
        return not known.untold
    # A swap replaces every region, also those without a named artifact.
    return question.form != "replacement" or known.technique is not Technique.FS
