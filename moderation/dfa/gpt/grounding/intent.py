"""What a question asks for: its family, its form, and the regions or the technique that it names.

A linear layer reads the family and form from the language model's own states after some of its layers: the mean over
the question's tokens, and the last one, where the answer would begin (linear probes, Alain and Bengio, 2016). What a
question names is read from the words (`named.py`). So a small language model, which understands more than it can say,
is asked only what it understands.

T tokens, K depths, E embedding width, I intents.
"""

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from moderation.analysis import Region
from moderation.dfa.gpt.grounding.answers import UNCLEAR
from moderation.dfa.gpt.grounding.beside import UNKNOWABLE
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.gpt.grounding.named import Named, asks_for, named_in
from moderation.dfa.gpt.grounding.put import as_put
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec, Tokens


@dataclass(frozen=True, eq=False)
class IntentHead:
    """Reads intents, "family/form", from the states of a language model."""

    #: After how many layers it reads, ascending.
    depths: tuple[int, ...]
    intents: tuple[str, ...]
    weight: Tensor  # (I, K·2·E)
    bias: Tensor  # (I,)

    def scores(self, states: Tensor, question: slice) -> dict[str, float]:
        """Each intent's logit, from the states (K, T, E) of a conversation that ends at the answer's position.

        `question` is the place of the question's tokens.
        """
        logits = self.weight @ pooled(states, question) + self.bias
        return dict(zip(self.intents, logits.tolist(), strict=True))


def pooled(states: Tensor, question: slice) -> Tensor:
    """(K·2·E,): of each depth, the mean of the question's states (K, T, E), and the last state."""
    return torch.cat([states[:, question].float().mean(dim=1), states[:, -1].float()], dim=1).flatten()


def save_intents(head: IntentHead, file: Path) -> None:
    """Write a head at half precision."""
    about = {"intents": json.dumps(head.intents), "depths": json.dumps(head.depths)}
    save_file({"weight": head.weight.half().contiguous(), "bias": head.bias.half()}, file, metadata=about)


def load_intents(file: Path) -> IntentHead:
    """Read a head. Raise OSError, SafetensorError or KeyError when the file is no head."""
    with safe_open(file, framework="pt") as stored:
        about = stored.metadata() or {}
        return IntentHead(
            depths=tuple(json.loads(about["depths"])),
            intents=tuple(json.loads(about["intents"])),
            weight=stored.get_tensor("weight").float(),
            bias=stored.get_tensor("bias").float(),
        )


def asked_alone(prompts: PromptSet, codec: Codec, question: str) -> tuple[Tokens, slice]:
    """A conversation of this question alone, without a picture, and the place of the question's tokens in it."""
    before, after = prompts.open(_HERE).replace(f"{prompts.image}\n", "").split(_HERE)
    head, asked = codec.encode(before), codec.piece(question)
    return head + asked + codec.piece(after), slice(len(head), len(head) + len(asked))


#: Stands for the question while its template is split.
_HERE = "\0"

#: Families whose questions name a region, two regions, or a technique.
_REGIONAL, _TWO, _TECHNICAL = "region", "compare", frozenset({"technique_named", "technique_meant"})
#: Intents whose questions may name a region, and need not.
_MATCH, _DIRECTION = "match/open", "light/direction"
#: The intent whose questions may name two techniques.
_DIFFERENCE = "technique_meant/difference"
#: Added to an intent's logit when the question names a region or a technique, or has a word for the family.
_NAMED = 3.0
#: Forms that take a side, each with its opposite.
_OPPOSITE: Mapping[str, str] = {
    "natural": "forged", "forged": "natural", "fake": "real", "real": "fake",
    "says_real": "says_fake", "says_fake": "says_real",
}  # fmt: skip
#: An opposite whose logit is less than this below decides nothing: the answer then takes no side.
_CLEAR = 1.0
#: A question is not understood when its likeliest family is less probable.
_LEAST = 0.2
#: A question whose likeliest family is less probable was read with little certainty.
_SURE = 0.7
#: What a question about a region asks when it names none: the whole face is meant.
_WHOLE: Mapping[str, str] = {
    "region/open": "places/where", "region/wrong": "places/where",
    "region/natural": "verdict/real", "region/forged": "verdict/fake", "region/seen": "places/where",
}  # fmt: skip


def understood(text: str, scores: Mapping[str, float], earlier: Sequence[str] = ()) -> Question:
    """The question, with the likeliest intent that fits the regions and techniques which it names.

    `scores` are the intents' logits. `earlier` are the questions before it, oldest first.
    """
    named = named_in(text, earlier)
    logits = {intent: score + _weight(intent, text, named) for intent, score in scores.items()}
    likeliest = max(logits, key=logits.__getitem__)
    if len(named.nouns) == 1 and named.aspects and family_of(likeliest) == _TWO:
        named = named.with_aspect()
    fitting = {intent: logit for intent, logit in logits.items() if _fits(intent, named)}
    if not named.nouns and not named.aspects and likeliest in _WHOLE:
        fitting[_WHOLE[likeliest]] = logits[likeliest]
    family, form = _as_named(*as_put(*_chosen(fitting), text), named)
    regional = family in {_REGIONAL, _TWO} or f"{family}/{form}" in {_MATCH, _DIRECTION}
    regions = list(named.nouns.items()) if regional else []
    region, noun = regions[0] if regions else (None, None)
    techniques = [*named.techniques, None, None] if family in _TECHNICAL else [None, None]
    technique, second = techniques[:2]
    return Question(
        text=text,
        family=family,
        form=form,
        wording=zlib.crc32(text.encode()) % 1000,
        region=region,
        noun=noun,
        other=regions[1] if family == _TWO else None,
        technique=technique,
        second_technique=second,
        unsure=family != UNCLEAR and _probability(family, fitting) < _SURE,
    )


def _as_named(family: str, form: str, named: Named) -> tuple[str, str]:
    """Family and form, corrected by what the question names."""
    if (family, form) == ("technique_named", "named") and len(named.techniques) > 1:
        return "technique", "open"  # "A swap or an edit?" has no yes
    if (family, form) == (_REGIONAL, "seen") and "boundary" in named.about:
        return "boundary", "open"  # a seam is no single detail: it is looked for
    if family == "things" and list(named.nouns) not in ([], [Region.BACKGROUND]):
        return _REGIONAL, "seen"  # a patch on the cheek
    if family == "tone" and family not in named.about and len(named.nouns) == 1:
        return _REGIONAL, form  # "Teeth too white?"
    return family, form


def _weight(intent: str, text: str, named: Named) -> float:
    """What the words of a question add to an intent's logit."""
    family = family_of(intent)
    if not asks_for(intent, text):
        return -2 * _NAMED
    if family in _TECHNICAL:
        return _NAMED * bool(named.techniques)
    if intent in {_MATCH, _DIRECTION}:  # of whichever part
        return _NAMED * (family in named.about)
    if named.nouns:  # "The colour of the cheeks" is about the cheeks
        return _NAMED * (family in {_REGIONAL, _TWO})
    return _NAMED * (family in named.about)


def _fits(intent: str, named: Named) -> bool:
    family = family_of(intent)
    if family == _REGIONAL:
        return len(named.nouns) == 1
    if family == _TWO:
        return len(named.nouns) >= 2
    if family == "technique_named":
        return bool(named.techniques)
    return family != "technique_meant" or intent == _DIFFERENCE or len(named.techniques) <= 1


def _chosen(fitting: Mapping[str, float]) -> tuple[str, str]:
    """Family and form of the likeliest intent, or of what is said when no family is likely enough."""
    family, form = max(fitting, key=fitting.__getitem__).split("/")
    if _probability(family, fitting) < _LEAST:
        return UNCLEAR, "open"
    opposite = fitting.get(f"{family}/{_OPPOSITE.get(form)}", -math.inf)
    return family, form if fitting[f"{family}/{form}"] - opposite >= _CLEAR else "open"


def _probability(family: str, logits: Mapping[str, float]) -> float:
    """Of one family, by the softmax of all intents' logits."""
    most = max(logits.values())
    shares = {intent: math.exp(logit - most) for intent, logit in logits.items()}
    own = sum(share for intent, share in shares.items() if family_of(intent) == family)
    return own / sum(shares.values())


def family_of(intent: str) -> str:
    return intent.split("/", maxsplit=1)[0]


# --- two questions at once

#: Where a second question begins.
_SECOND = re.compile(
    r"(?:\?\s+|,?\s+and\s+)"
    r"(?=(?:if \w+,? |(?:on|for|in|by) )?(?:how|where|why|what|which|is|are|was|does|do|did|can|could|should)\b)",
    re.I,
)


def halves(text: str) -> tuple[str, str] | None:
    """The two questions of a text that asks two: "Is it fake, and how sure are you?". None when it asks one."""
    parts = _SECOND.split(text, maxsplit=1)
    if len(parts) < 2 or any(len(part.split()) < 2 for part in parts):
        return None
    return f"{parts[0].rstrip('?!., ')}?", parts[1][:1].upper() + parts[1][1:]


def told_together(first: Question, second: Question) -> bool:
    """True when both are understood, and a picture can answer them with different things."""
    if (first.family, first.form) == ("plain", "user"):
        return False  # the words for a user are all that is wanted
    aside = {*UNKNOWABLE, UNCLEAR, "about"}
    twice = first.family == second.family and (first.family != "places" or first.form == second.form)
    return not twice and not aside & {first.family, second.family}
