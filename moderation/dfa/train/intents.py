"""Train what reads a question's intent: low-rank terms of the language model's first layers, and a small attention.

They learn from the grammar, which names every part in every way, and from questions as reviewers type them.

N questions, T tokens, K depths, E embedding width, S numbers of a token, I intents.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import get_cosine_schedule_with_warmup

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import Bundle
from moderation.dfa.gpt.engine.low_rank import LowRank, adapted
from moderation.dfa.gpt.grounding.intent import asked_alone, family_of
from moderation.dfa.gpt.grounding.intent_head import Attending, IntentHead
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.gpt.script import Tokens
from moderation.dfa.instruct.draws import Rng, picked
from moderation.dfa.instruct.questions import as_typed, detailed, drawn, regions, typed
from moderation.dfa.instruct.talk import SHARES

#: Questions of the grammar that are learnt from.
QUESTIONS = 3000
#: The states after these shares of the layers are read: the middle of a language model tells best what a text is about.
DEPTHS = (0.4, 0.5)
#: Layers are adapted from this share on, and by terms of this rank.
ADAPTED, RANK = 2 / 15, 16
#: Passes over the questions, questions a step, and the rates of the terms and of the attention.
EPOCHS, BATCH, RATE_OF_TERMS, RATE = 3, 32, 1e-3, 1e-3
#: Share of the wordings that are left out of training, for judging and for the scale of the logits.
KEPT = 0.05
#: Batches whose questions are sorted by length together.
_TOGETHER = 40


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


@dataclass(frozen=True)
class Read:
    """How often questions are read rightly that training did not see."""

    questions: int
    #: Shares of the questions whose family, and whose intent, is read rightly.
    families: float
    intents: float


def read_questions(
    bundle: Bundle, *, count: int = QUESTIONS, seed: int = 17, say: Callable[[str], None] = lambda words: None
) -> tuple[IntentHead, Read]:
    """What reads questions for this bundle, and how well it reads wordings that it did not learn from."""
    questions = asked(count, seed=seed)
    wordings = sorted({each.wording for each in questions})
    kept = set(np.random.default_rng(seed).choice(wordings, round(KEPT * len(wordings)), replace=False))
    taught = [each for each in questions if each.wording not in kept]
    judged = [each for each in questions if each.wording in kept]
    return fit_intents(bundle, taught, judged, seed=seed, say=say)


def fit_intents(
    bundle: Bundle,
    taught: Sequence[Taught],
    judged: Sequence[Taught],
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    say: Callable[[str], None] = lambda words: None,
) -> tuple[IntentHead, Read]:
    """Learn from the questions `taught`, and judge on others. These also give the logits' scale."""
    torch.manual_seed(seed)
    reader = _Reader(bundle, sorted({each.intent for each in taught}))
    texts = [reader.tokens(each.text) for each in taught]
    targets = torch.tensor([reader.intents.index(each.intent) for each in taught])
    reader.standardise(texts)
    count = torch.bincount(targets, minlength=len(reader.intents))
    weight = (count.float().mean() / count.clamp(min=1)) ** 0.5  # rare intents count for more
    optimiser = torch.optim.AdamW(
        [
            {"params": reader.terms, "lr": RATE_OF_TERMS, "weight_decay": 0.01},
            {"params": list(reader.attending.parameters()), "lr": RATE, "weight_decay": 0.05},
        ]
    )
    steps = epochs * math.ceil(len(texts) / BATCH)
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 20, steps)
    batches = itertools.chain.from_iterable(_batches(texts) for _ in range(epochs))
    reader.attending.train()
    for step, chosen in enumerate(batches, start=1):
        logits = reader.logits([texts[index] for index in chosen], dropped=0.1)
        loss = F.cross_entropy(logits, targets[chosen], weight=weight, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        for parameters in (reader.terms, list(reader.attending.parameters())):
            nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            say(f"questions: step {step} of {steps}, loss {loss.item():.2f}")
    reader.attending.eval()
    read = reader.judged(judged)
    return reader.head(), read


def depths_of(bundle: Bundle) -> tuple[int, ...]:
    layers: int = bundle.model.config.get_text_config().num_hidden_layers
    return tuple(sorted({max(1, round(share * layers)) for share in DEPTHS}))


#: A question's tokens as it is served, and the place of its own among them.
_Text = tuple[Tokens, slice]


class _Reader:
    """The language model's first layers with low-rank terms that learn, and the attention over their states."""

    def __init__(self, bundle: Bundle, intents: Sequence[str]) -> None:
        self.intents = list(intents)
        self.depths = depths_of(bundle)
        self._bundle = bundle
        whole: Any = bundle.model.model.language_model
        self._model = _first_layers(whole, self.depths[-1]).requires_grad_(requires_grad=False)
        first = round(ADAPTED * len(whole.layers))
        linear = {
            name: layer
            for name, layer in self._model.layers.named_modules()
            if isinstance(layer, nn.Linear) and int(name.partition(".")[0]) >= first
        }
        self._adapter = {name: _term(layer) for name, layer in linear.items()}
        self.terms = [part for term in self._adapter.values() for part in (term.down, term.up)]
        width = len(self.depths) * int(whole.config.hidden_size)
        self.attending = Attending(width, len(self.intents))

    def tokens(self, text: str) -> _Text:
        return asked_alone(self._bundle.prompts, self._bundle.codec, text)

    def logits(self, texts: Sequence[_Text], *, dropped: float = 0.0) -> Tensor:
        """(n, I). A share of the questions' tokens is left out at random."""
        tokens, present, end = self._states(texts)
        kept = present & (torch.rand(present.shape) >= dropped)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, present)
        return self.attending(tokens, kept, end)

    def standardise(self, texts: Sequence[_Text]) -> None:
        """Bring the attention's inputs to zero mean and unit spread, over some of these texts."""
        with torch.no_grad():
            seen = [self._states(part) for part in _parts(texts[:: max(len(texts) // 2000, 1)])]
        inputs = torch.cat([t[p] for t, p, _ in seen]), torch.cat([end for _, _, end in seen])
        for row, states in enumerate(inputs):
            self.attending.middle[row] = states.mean(dim=0)
            self.attending.spread[row] = states.std(dim=0) + 1e-3

    def judged(self, questions: Sequence[Taught]) -> Read:
        """How well these are read. The logits are brought to the scale in which they tell it best."""
        with torch.no_grad():
            logits = torch.cat(
                [self.logits(part) for part in _parts([self.tokens(q.text) for q in questions])]
            )
            told = [self.intents[index] for index in logits.argmax(dim=1).tolist()]
            known = torch.tensor([each.intent in self.intents for each in questions])
            targets = torch.tensor(
                [self.intents.index(q.intent) for q in questions if q.intent in self.intents]
            )
            factor = _scale(logits[known], targets)
            self.attending.out.weight.mul_(factor)
            self.attending.out.bias.mul_(factor)
        right = [
            (a == q.intent, family_of(a) == family_of(q.intent)) for a, q in zip(told, questions, strict=True)
        ]
        intents, families = (sum(each) / len(right) for each in zip(*right, strict=True))
        return Read(len(right), families, intents)

    def head(self) -> IntentHead:
        self.attending.requires_grad_(requires_grad=False)
        adapter = {name: LowRank(t.down.detach(), t.up.detach()) for name, t in self._adapter.items()}
        return IntentHead(self.depths, tuple(self.intents), self.attending, adapter)

    def _states(self, texts: Sequence[_Text]) -> tuple[Tensor, Tensor, Tensor]:
        """States of the tokens (n, T, S), which of them are the question's (n, T), and the last states (n, S)."""
        rows = [torch.tensor(tokens) for tokens, _ in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        places = torch.arange(ids.shape[1])
        lengths = torch.tensor([len(row) for row in rows])
        with adapted(self._model.layers, self._adapter):
            out = self._model(
                input_ids=ids,
                attention_mask=(places < lengths[:, None]).long(),
                output_hidden_states=True,
                use_cache=False,
            )
        states = torch.cat([out.hidden_states[depth] for depth in self.depths], dim=-1)
        present = torch.stack([(places >= place.start) & (places < place.stop) for _, place in texts])
        return states, present, states[torch.arange(len(rows)), lengths - 1]


def _first_layers(whole: Any, count: int) -> Any:
    """A language model of the first layers of another, with the same weights."""
    config = copy.deepcopy(whole.config)
    config.num_hidden_layers = count
    with torch.device("meta"):
        model = type(whole)(config)
    model.embed_tokens, model.rotary_emb = whole.embed_tokens, whole.rotary_emb
    model.layers, model.norm = whole.layers[:count], nn.Identity()
    return model


def _term(layer: nn.Linear) -> LowRank:
    """A low-rank term that adds nothing yet, and learns."""
    rank = min(RANK, layer.in_features, layer.out_features)
    down = torch.empty(rank, layer.in_features)
    nn.init.kaiming_uniform_(down, a=math.sqrt(5))  # as peft begins
    return LowRank(nn.Parameter(down), nn.Parameter(torch.zeros(layer.out_features, rank)))


def _scale(logits: Tensor, targets: Tensor) -> float:
    """The factor of the logits by which they tell these targets best (temperature scaling, Guo et al., ICML 2017)."""
    factors = torch.linspace(0.3, 3.0, 55)
    losses = torch.stack([F.cross_entropy(factor * logits, targets) for factor in factors])
    return float(factors[losses.argmin()])


def _batches(texts: Sequence[_Text]) -> Iterator[list[int]]:
    """All places of texts once, in batches of nearly one length, in random order."""
    order = torch.randperm(len(texts)).tolist()
    batches: list[list[int]] = []
    for begin in range(0, len(order), BATCH * _TOGETHER):
        near = sorted(order[begin : begin + BATCH * _TOGETHER], key=lambda index: len(texts[index][0]))
        batches += [near[at : at + BATCH] for at in range(0, len(near), BATCH)]
    yield from (batches[index] for index in torch.randperm(len(batches)).tolist())


def _parts(texts: Sequence[_Text]) -> Iterator[Sequence[_Text]]:
    yield from (texts[at : at + BATCH] for at in range(0, len(texts), BATCH))
