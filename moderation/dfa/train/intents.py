"""Fit the head that reads what a question asks for, on the language model that the bundle serves.

It learns from the grammar, which names every part in every way, and from questions as reviewers type them.

N questions, T tokens, K depths, E embedding width, S numbers of a token, I intents.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import get_cosine_schedule_with_warmup

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import Bundle
from moderation.dfa.gpt.engine.engine import Engine, Plan, Route
from moderation.dfa.gpt.grounding.intent import asked_alone, family_of
from moderation.dfa.gpt.grounding.intent_head import Attending, IntentHead, beside, pooled
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.instruct.draws import Rng, picked
from moderation.dfa.instruct.questions import as_typed, detailed, drawn, regions, typed
from moderation.dfa.instruct.talk import SHARES
from moderation.dfa.train.probe import per_class

#: Questions of the grammar that the head is fitted on.
QUESTIONS = 3000
#: The head reads after these shares of the layers: the middle of a language model tells best what a text is about.
DEPTHS = (4 / 15, 0.4, 0.5)
#: Inverse strength of the ridge for one question, in features of unit spread. Wordings left out chose its size.
RIDGE = 2000.0
#: Of the attention: passes over the questions, questions a step, and the rate.
EPOCHS, BATCH, RATE = 8, 64, 1e-3
#: Width of the attention's logits in that of the linear layer's.
ATTENDED = 0.4
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
        region = picked(detailed(), rng)
    other = places[1] if family == "compare" else None
    technique = picked(list(Technique), rng) if family.startswith("technique_") else None
    return drawn(family, rng, region=region, other=other, technique=technique)


def question_states(bundle: Bundle, texts: Sequence[str]) -> list[Tensor]:
    """The states of each question as served, (K, T+1, E) float16: of its tokens, then of the prompt's last token."""
    plan = Plan(technique=False, rationale=False, slots=1)
    depths = depths_of(bundle)
    states: list[Tensor] = []
    with closing(Engine.of(bundle, route=lambda _margin, _mass: Route.LEAVE, plan=plan)) as engine:
        for text in texts:
            tokens, place = asked_alone(bundle.prompts, bundle.codec, text)
            all_states = engine.states(tokens, depths=depths)
            states.append(torch.cat([all_states[:, place], all_states[:, -1:]], dim=1).half())
    return states


#: The question's tokens in its states.
_TOKENS = slice(0, -1)


def depths_of(bundle: Bundle) -> tuple[int, ...]:
    layers: int = bundle.model.config.get_text_config().num_hidden_layers
    return tuple(sorted({max(1, round(share * layers)) for share in DEPTHS}))


def fit_intents(
    states: Sequence[Tensor], intents: Sequence[str], *, depths: Sequence[int], seed: int = 0
) -> IntentHead:
    """A head from the states of questions to their intents: a ridged logistic regression, and attention beside it."""
    linear = _fit_linear(states, intents, depths)
    targets = torch.tensor([linear.intents.index(intent) for intent in intents])
    attending, own = _fit_attending(states, targets, len(linear.intents), seed=seed)
    told = torch.stack([linear.weight @ pooled(each, _TOKENS) + linear.bias for each in states])
    # Logits of both in one scale, and their sum nearly as wide as those of the linear layer alone: how clear a reading
    # must be was chosen for these.
    factor = float(ATTENDED * told.std() / own.std())
    with torch.no_grad():
        attending.out.weight.mul_(factor)
        attending.out.bias.mul_(factor)
    return replace(
        linear,
        weight=(1 - ATTENDED / 2) * linear.weight,
        bias=(1 - ATTENDED / 2) * linear.bias,
        attending=attending,
    )


def _fit_linear(states: Sequence[Tensor], intents: Sequence[str], depths: Sequence[int]) -> IntentHead:
    from sklearn.linear_model import LogisticRegression

    features = np.stack([pooled(each, _TOKENS).numpy() for each in states])
    middle, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    fitted = LogisticRegression(C=RIDGE / len(features), max_iter=200)
    fitted.fit((features - middle) / spread, intents)
    directions, offsets = per_class(fitted)
    directions = directions / spread
    return IntentHead(
        depths=tuple(depths),
        intents=tuple(str(name) for name in fitted.classes_),
        weight=torch.from_numpy(directions).float(),
        bias=torch.from_numpy(offsets - directions @ middle).float(),
    )


def _fit_attending(
    states: Sequence[Tensor], targets: Tensor, intents: int, *, seed: int
) -> tuple[Attending, Tensor]:
    """The attention, and its logits (N, I) of these questions."""
    torch.manual_seed(seed)
    tokens = [beside(each[:, _TOKENS]) for each in states]
    ends = torch.stack([beside(each[:, -1:])[0] for each in states])
    module = Attending(ends.shape[1], intents)
    for row, seen in enumerate((torch.cat(tokens[:: max(len(tokens) // 2000, 1)]).float(), ends.float())):
        module.middle[row], module.spread[row] = seen.mean(dim=0), seen.std(dim=0) + 1e-3
    count = torch.bincount(targets, minlength=intents)
    weight = (count.float().mean() / count.clamp(min=1)) ** 0.5  # rare intents count for more
    optimiser = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(targets) // BATCH)
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 10, steps)
    module.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(targets)).split(BATCH):
            logits = module(*_batch(tokens, ends, chosen, dropped=0.1))
            loss = F.cross_entropy(logits, targets[chosen], weight=weight, label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    module.eval().requires_grad_(requires_grad=False)
    parts = torch.arange(len(targets)).split(BATCH)
    return module, torch.cat([module(*_batch(tokens, ends, part)) for part in parts])


def _batch(
    tokens: Sequence[Tensor], ends: Tensor, chosen: Tensor, *, dropped: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (n, T, S), which are present (n, T), and ends (n, S). A share of the tokens is left out at random."""
    rows = [tokens[index] for index in chosen.tolist()]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
    lengths = torch.tensor([len(row) for row in rows])
    present = torch.arange(padded.shape[1]) < lengths[:, None]
    kept = present & (torch.rand(present.shape) >= dropped)
    kept[:, 0] |= ~kept.any(dim=1)
    return padded, kept, ends[chosen].float()


def left_out(states: Sequence[Tensor], questions: Sequence[Taught], *, seed: int) -> float:
    """The share of families that a head reads rightly in wordings that it never saw."""
    wordings = sorted({each.wording for each in questions})
    rng = np.random.default_rng(seed)
    kept = {wordings[index] for index in np.flatnonzero(rng.random(len(wordings)) < KEPT)}
    taught = [place for place, each in enumerate(questions) if each.wording not in kept]
    judged = [place for place, each in enumerate(questions) if each.wording in kept]
    head = fit_intents(
        [states[place] for place in taught], [questions[place].intent for place in taught], depths=()
    )
    right = 0
    for place in judged:
        scores = head.scores(states[place], _TOKENS)
        right += family_of(max(scores, key=scores.__getitem__)) == family_of(questions[place].intent)
    return right / len(judged)


def read_questions(bundle: Bundle, *, count: int = QUESTIONS, seed: int = 17) -> tuple[IntentHead, float]:
    """The head of this bundle, and the share of families that one reads rightly in wordings left out."""
    questions = asked(count, seed=seed)
    states = question_states(bundle, [each.text for each in questions])
    head = fit_intents(states, [each.intent for each in questions], depths=depths_of(bundle))
    return head, left_out(states, questions, seed=seed)
