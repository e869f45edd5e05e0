"""What a question asks for: its family, its form, and the regions or the technique that it names.

A linear layer reads the family and form from the language model's own states: the mean over the question's tokens, and
the last one, where the answer would begin (linear probes, Alain and Bengio, 2016). Regions and techniques are read from
the words. So a small language model, which understands more than it can say, is asked only what it understands.

T tokens, E embedding width, I intents.
"""

import difflib
import json
import math
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.claims import parts_in_order, techniques_named
from moderation.dfa.gpt.grounding.answers import BEYOND, UNCLEAR, UNKNOWABLE, Question
from moderation.dfa.gpt.grounding.sentences import NOUNS, Noun
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec, Tokens


@dataclass(frozen=True, eq=False)
class IntentHead:
    """Reads intents, "family/form", from the states after the first `depth` layers of a language model."""

    depth: int
    intents: tuple[str, ...]
    weight: Tensor  # (I, 2·E)
    bias: Tensor  # (I,)

    def scores(self, states: Tensor, question: slice) -> dict[str, float]:
        """Each intent's logit, from the states (T, E) of a conversation that ends at the answer's position.

        `question` is the place of the question's tokens.
        """
        logits = self.weight @ pooled(states, question) + self.bias
        return dict(zip(self.intents, logits.tolist(), strict=True))


def pooled(states: Tensor, question: slice) -> Tensor:
    """(2·E,): the mean of the question's states (T, E), and the last state."""
    return torch.cat([states[question].float().mean(dim=0), states[-1].float()])


def save_intents(head: IntentHead, file: Path) -> None:
    """Write a head at half precision."""
    about = {"intents": json.dumps(head.intents), "depth": str(head.depth)}
    save_file({"weight": head.weight.half().contiguous(), "bias": head.bias.half()}, file, metadata=about)


def load_intents(file: Path) -> IntentHead:
    """Read a head. Raise OSError, SafetensorError or KeyError when the file is no head."""
    with safe_open(file, framework="pt") as stored:
        about = stored.metadata() or {}
        return IntentHead(
            depth=int(about["depth"]),
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
#: What a question may be about beside the regions, in the words for it.
_ABOUT: Mapping[str, str] = {
    "boundary": r"seams?|edges?|boundary|outlines?|contours?|rim|halo|borders?|blending",
    "light": r"light\w*|lit|shadows?|illumination|highlights?|reflections?",
    "tone": r"colou?r\w*|tones?|shades?|tints?|hues?",
    "skin": r"skin|complexion|pores?|wrinkles|fine lines",
    "certainty": r"percent\w*|confiden\w+|certain\w*",
    "score": r"scores?",
    "verdict": r"AI|artificial intelligence|computer|machine",
    "otherwise": r"compress\w*|filters?|make-?up|beauty|botox|surgery|low resolution|webcam",
    "plain": r"plain\w*|simpl\w+|easy|easier|jargon|layman|grandm\w+|nan|mum|mother|child",
    "counter": r"other side|opposite|advocate|contrary",
    "limits": r"limits?|limitations?|weakness\w*|blind spots?|fool\w*|trick\w*",
}
#: Families whose questions are answered with a thing that they name: without its words they are read as others.
_NEEDED = frozenset({"boundary", "light", "tone", "skin", "score"})
#: The regions of those that a region can be compared with.
_ASPECTS: Mapping[str, Region] = {
    "boundary": Region.FACE_BOUNDARY, "light": Region.LIGHTING, "tone": Region.LIGHTING, "skin": Region.SKIN,
}  # fmt: skip
#: The words for what the special forms of a question about a region ask.
_ASKS: Mapping[str, str] = {
    "blur": r"blur\w*|soft\w*|focus|unsharp|fuzzy|washed|detail|smear\w*",
    "sharpness": r"sharp\w*|over-sharpened|nois\w*|grain\w*|crisp\w*",
    "smoothing": r"smooth\w*|plastic|wax\w*|airbrush\w*|polish\w*|retouch\w*|texture|filter\w*|flat|iron\w*",
    "distortion": r"distort\w*|warp\w*|bent|twist\w*|deform\w*|stretch\w*|shap\w*|skew\w*|crooked|moved|longer|wonky",
    "colour": r"colou?r\w*|tones?|shades?|tints?|hues?|pale|red\w*|discolou?r\w*",
    "replacement": r"replac\w*|swap\w*|(?:an)?other|some(?:one|body)|exchang\w*|pasted|foreign|belong\w*|different",
}
#: Who made a picture is no question about the verdict, even when it names machines.
_WHO = re.compile(r"\W*(?:who|whose|which|what|name)\b", re.I)
#: Added to an intent's logit when the question names what the intent is about, more for a thing that is seen in the
#: face; and taken from it when such a thing is not named. Words show that better than states.
_NAMED, _SEEN, _MISSING = 3.0, 5.0, 1.0
#: Forms that take a side, each with its opposite.
_OPPOSITE: Mapping[str, str] = {
    "natural": "forged", "forged": "natural", "fake": "real", "real": "fake",
    "says_real": "says_fake", "says_fake": "says_real",
}  # fmt: skip
#: An opposite whose logit is less than this below decides nothing: the answer then takes no side.
_CLEAR = 2.0
#: Two families that no picture answers are one when their logits are no farther apart.
_ALIKE = 1.0
#: A question is not understood when its likeliest family is less probable.
_LEAST = 0.3
#: Short questions with such a word are about the region that the question before named.
_POINTING, _SHORT = re.compile(r"\b(?:it|its|they|them|their|there)\b", re.I), 6


def understood(text: str, scores: Mapping[str, float], earlier: Sequence[str] = ()) -> Question:
    """The question, with the likeliest intent that fits the regions and techniques which it names.

    `earlier` are the questions before it, oldest first: "it" may stand for the region that the last one named.
    """
    nouns = _parts_asked(text)
    pointing = not nouns and len(text.split()) <= _SHORT and _POINTING.search(text) is not None
    if pointing:
        nouns = _parts_asked(earlier[-1]) if earlier else {}
    regions, techniques = list(nouns), list(techniques_asked(text))
    named = {family for family, words in _ABOUT.items() if re.search(rf"\b(?:{words})\b", text, re.I)}
    aspects = [family for family in _ASPECTS if family in named]
    if techniques or _WHO.match(text):
        named.discard("verdict")
    weighed = {
        intent: score + _weight(intent, text, named, bool(regions)) for intent, score in scores.items()
    }
    likeliest = max(weighed, key=weighed.__getitem__)
    if len(regions) == 1 and aspects and family_of(likeliest) == _TWO:
        aspect = _ASPECTS[aspects[0]]
        nouns[aspect] = NOUNS[aspect]
        regions.append(aspect)
    fitting = {
        intent: score for intent, score in weighed.items() if _fits(family_of(intent), regions, techniques)
    }
    if (
        not regions and not aspects and likeliest in _INSTEAD
    ):  # a part of the face, without its name: the face
        fitting[_INSTEAD[likeliest]] = weighed[likeliest]
    family, form = max(fitting, key=fitting.__getitem__).split("/")
    best = fitting[f"{family}/{form}"]
    opposite = fitting.get(f"{family}/{_OPPOSITE.get(form)}", -math.inf)
    if best - opposite < _CLEAR:
        form = "open"
    if _probability(family, fitting) < _LEAST:
        family, form = UNCLEAR, "open"
    elif _all_unknowable(fitting, best):
        family = BEYOND
    regional = family in {_REGIONAL, _TWO}
    return Question(
        text=text,
        family=family,
        form=form,
        wording=zlib.crc32(text.encode()) % 1000,
        region=regions[0] if regional else None,
        noun=nouns[regions[0]] if regional else None,
        other=(regions[1], nouns[regions[1]]) if family == _TWO else None,
        technique=techniques[0] if family in _TECHNICAL else None,
    )


#: What a question about a region asks when it names none.
_INSTEAD: Mapping[str, str] = {
    "region/open": "places/where", "region/wrong": "places/where",
    "region/natural": "verdict/real", "region/forged": "verdict/fake",
}  # fmt: skip


#: Where a second question begins.
_SECOND = re.compile(
    r"(?:\?\s+|,?\s+and\s+)(?=(?:if \w+,? )?(?:how|where|why|what|which|is|are|was|does|do|did|can|could)\b)",
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
    aside = {*UNKNOWABLE, BEYOND, UNCLEAR, "about"}
    return first.family != second.family and not aside & {first.family, second.family}


def _weight(intent: str, text: str, named: Collection[str], regional: bool) -> float:  # noqa: FBT001
    """What the words of a question add to an intent's logit."""
    family, form = intent.split("/")
    if family == _REGIONAL and form in _ASKS and not re.search(rf"\b(?:{_ASKS[form]})\b", text, re.I):
        return -_NAMED
    if regional:  # "The colour of the cheeks" is about the cheeks
        return _NAMED * (
            family in {_REGIONAL, _TWO} or (family in _TECHNICAL and bool(techniques_asked(text)))
        )
    if family in _TECHNICAL:
        return _NAMED * bool(techniques_asked(text))
    if family in _NEEDED:
        return _SEEN if family in named else -_MISSING
    return _NAMED * (family in named)


def _probability(family: str, logits: Mapping[str, float]) -> float:
    """Of one family, by the softmax of all intents' logits."""
    most = max(logits.values())
    shares = {intent: math.exp(logit - most) for intent, logit in logits.items()}
    own = sum(share for intent, share in shares.items() if family_of(intent) == family)
    return own / sum(shares.values())


def _all_unknowable(fitting: Mapping[str, float], best: float) -> bool:
    """True when all intents near the best are of families that no picture answers."""
    near = {family_of(intent) for intent, score in fitting.items() if best - score < _ALIKE}
    return len(near) > 1 and near <= set(UNKNOWABLE)


def family_of(intent: str) -> str:
    return intent.split("/", maxsplit=1)[0]


def _fits(family: str, regions: Sequence[Region], techniques: Sequence[Technique]) -> bool:
    if family == _REGIONAL:
        return len(regions) == 1
    if family == _TWO:
        return len(regions) >= 2
    return family not in _TECHNICAL or len(techniques) == 1


def regions_asked(text: str) -> dict[Region, Noun]:
    """The regions of a face that a question names, in its order, as it calls them. Longer words may be misspelt."""
    spelt = re.sub(r"\b(?:lip|face)[- ]?(?:sync|swap)\w*", " ", _spelt(text), flags=re.I)  # a technique
    return {region: _noun(region, word) for region, word in parts_in_order(spelt).items()}


def _parts_asked(text: str) -> dict[Region, Noun]:
    """The regions that a question names, without the face's edge, which is a family of its own."""
    return {
        region: noun for region, noun in regions_asked(text).items() if region is not Region.FACE_BOUNDARY
    }


#: Words for a part of a region that would sound odd in an answer. "Iris" is the only singular that ends in s.
_CLIPPED = frozenset({"iris", "hairs", "strand", "strands", "lid", "lids"})


def _noun(region: Region, word: str) -> Noun:
    return NOUNS[region] if word in _CLIPPED else Noun(word, plural=word == "teeth" or word.endswith("s"))


#: Words of regions that are long enough to be recognised when misspelt.
_LONG = (
    "forehead", "hairline", "eyelids", "eyebrows", "pupils", "nostrils", "cheeks", "cheekbones", "mouth", "teeth",
    "smile", "jawline", "earlobes", "throat", "background", "swapped", "reenactment", "synthesis", "editing",
)  # fmt: skip


def _spelt(text: str) -> str:
    """The text with misspelt words of `_LONG` corrected."""

    def corrected(match: re.Match[str]) -> str:
        word = match[0].lower()
        return next(iter(difflib.get_close_matches(word, _LONG, n=1, cutoff=0.86)), word)

    return re.sub(r"[A-Za-z]{5,}", corrected, text)


_ASKED: Mapping[Technique, str] = {
    Technique.FS: r"(?:face[- ]?)?swap\w*|exchanged|another (?:person's |one's )?face",
    Technique.FR: r"re-?enact\w*|puppet\w*|animated|expression|lip[- ]?sync\w*",
    Technique.FE: r"edit\w*|retouch\w*|touched up|attribute\w*",
    Technique.EFS: r"synthesi[sz]\w*|synthetic|(?:fully|entirely|wholly|completely) (?:generated|made|invented)"
    r"|(?:entire|whole) face|generator|made from nothing|from scratch"
    r"|generated (?:fully|entirely|wholly|completely)|GANs?|diffusion",
}


def techniques_asked(text: str) -> frozenset[Technique]:
    """The techniques that a question names, in any words."""
    text = _spelt(text)
    return techniques_named(text) or frozenset(
        technique for technique, words in _ASKED.items() if re.search(rf"\b(?:{words})\b", text, re.I)
    )
