"""Fit the head that reads what a question asks for, on the language model that the bundle serves.

It learns from the grammar, which names every part in every way, and from questions as reviewers type them.

N questions, K depths, E embedding width, I intents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import Bundle
from moderation.dfa.gpt.engine.engine import Engine, Plan, Route
from moderation.dfa.gpt.grounding.intent import IntentHead, asked_alone, pooled
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.instruct.forgery.forged import Rng
from moderation.dfa.instruct.questions import as_typed, detailed, drawn, regions, typed
from moderation.dfa.instruct.talk import SHARES
from moderation.dfa.train.probe import per_class

#: Questions of the grammar that the head is fitted on.
QUESTIONS = 3000
#: The head reads after these shares of the layers: the middle of a language model tells best what a text is about.
DEPTHS = (4 / 15, 0.4, 0.5)
#: Inverse strength of the ridge for one question, in features of unit spread. Wordings left out chose its size.
RIDGE = 2000.0
#: Share of the wordings that `left_out` keeps for judging.
KEPT = 0.2


@dataclass(frozen=True)
class Taught:
    """A question, and what it asks for."""

    text: str
    #: "family/form". A detail of a region is asked about like the region.
    intent: str
    #: Questions of the grammar that differ in their choices alone share it.
    wording: str


def asked(count: int, *, seed: int) -> list[Taught]:
    """`count` questions of the grammar, typed as people type, and all that were written as they are typed.

    Rare families of the grammar are asked more often than in FC.
    """
    rng = np.random.default_rng(seed)
    families = list(SHARES)
    weights = np.array([SHARES[family] ** 0.7 for family in families])
    chosen = rng.choice(len(families), size=count, p=weights / weights.sum())
    questions = [_taught(_drawn(families[index], rng), rng) for index in chosen]
    return questions + [Taught(text, intent, text) for intent, text in typed()]


def _taught(question: Question, rng: Rng) -> Taught:
    family = "region" if question.family == "detail" else question.family
    wording = f"{question.family}/{question.form}/{question.wording}"
    return Taught(as_typed(question.text, rng), f"{family}/{question.form}", wording)


def _drawn(family: str, rng: Rng) -> Question:
    places = list(rng.permutation(np.array(regions(), dtype=object)))
    region = None
    if family in {"region", "compare"}:
        region = places[0]
    elif family == "detail":
        region = detailed()[int(rng.integers(len(detailed())))]
    other = places[1] if family == "compare" else None
    technique = list(Technique)[int(rng.integers(4))] if family.startswith("technique_") else None
    return drawn(family, rng, region=region, other=other, technique=technique)


def question_states(bundle: Bundle, texts: Sequence[str]) -> np.ndarray:
    """(N, K·2·E) float32: what the language model makes of each question, as it is served."""
    engine = Engine(
        bundle.model,
        bundle.script,
        bundle.spec.image,
        route=lambda _margin, _mass: Route.LEAVE,
        plan=Plan(technique=False, rationale=False, slots=1),
    )
    depths = depths_of(bundle)
    states: list[np.ndarray] = []
    for text in texts:
        tokens, place = asked_alone(bundle.prompts, bundle.codec, text)
        states.append(pooled(engine.states(tokens, depths=depths), place).numpy())
    engine.close()
    return np.stack(states)


def depths_of(bundle: Bundle) -> tuple[int, ...]:
    layers: int = bundle.model.config.get_text_config().num_hidden_layers
    return tuple(sorted({max(1, round(share * layers)) for share in DEPTHS}))


def fit_intents(states: np.ndarray, intents: Sequence[str], *, depths: Sequence[int]) -> IntentHead:
    """A ridged logistic regression from states (N, K·2·E) to intents, as one linear layer."""
    from sklearn.linear_model import LogisticRegression

    middle, spread = states.mean(axis=0), states.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=RIDGE / len(states), max_iter=200).fit((states - middle) / spread, intents)
    directions, offsets = per_class(fitted)
    directions = directions / spread
    return IntentHead(
        depths=tuple(depths),
        intents=tuple(str(name) for name in fitted.classes_),
        weight=torch.from_numpy(directions).float(),
        bias=torch.from_numpy(offsets - directions @ middle).float(),
    )


def left_out(states: np.ndarray, questions: Sequence[Taught], *, seed: int) -> float:
    """The share of families that a head reads rightly in wordings that it never saw."""
    wordings = sorted({each.wording for each in questions})
    rng = np.random.default_rng(seed)
    kept = {wordings[index] for index in np.flatnonzero(rng.random(len(wordings)) < KEPT)}
    out = np.array([each.wording in kept for each in questions])
    intents = np.array([each.intent for each in questions])
    head = fit_intents(states[~out], intents[~out].tolist(), depths=())
    logits = torch.from_numpy(states[out]).float() @ head.weight.T + head.bias
    read = [head.intents[place].split("/")[0] for place in logits.argmax(dim=1).tolist()]
    return float(np.mean([one == other.split("/")[0] for one, other in zip(read, intents[out], strict=True)]))


def read_questions(bundle: Bundle, *, count: int = QUESTIONS, seed: int = 17) -> tuple[IntentHead, float]:
    """The head of this bundle, and the share of families that one reads rightly in wordings left out."""
    questions = asked(count, seed=seed)
    states = question_states(bundle, [each.text for each in questions])
    head = fit_intents(states, [each.intent for each in questions], depths=depths_of(bundle))
    return head, left_out(states, questions, seed=seed)
