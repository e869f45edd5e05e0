"""What a question asks for: its family, its form, and the regions or the technique that it names.

The language model's first layers, adapted to that, read the family and form (`intent_head.py`). What a question names
is read from the words (`named.py`). So a small language model, which understands more than it can say, is asked only
what it understands.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence

from moderation.dfa.gpt.grounding.answers import UNCLEAR
from moderation.dfa.gpt.grounding.corrected import corrected
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.gpt.grounding.named import Named, named_in
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec, Tokens


def asked_alone(prompts: PromptSet, codec: Codec, question: str) -> tuple[Tokens, slice]:
    """This question as one within a conversation, and the place of its own tokens in it."""
    before, after = prompts.ask(_HERE).split(_HERE)
    head, asked = codec.encode(before), codec.piece(question)
    return head + asked + codec.piece(after), slice(len(head), len(head) + len(asked))


#: Stands for the question while its template is split.
_HERE = "\0"

#: Families whose questions name a region, two regions, or a technique.
_REGIONAL, _TWO, _TECHNICAL = "region", "compare", frozenset({"technique_named", "technique_meant"})
#: Families whose answers speak of the region that the question names.
_OF_REGIONS = frozenset({_REGIONAL, _TWO, "evidence"})
#: Added to the logits of intents of these families when "it" stands for a region.
_POINTED = 3.0
#: Intents whose questions may name a region, and need not.
_MAY_NAME = frozenset({"match/open", "light/direction", "limits/picture"})
#: The intent whose questions may name two techniques.
_DIFFERENCE = "technique_meant/difference"
#: Forms that take a side, each with its opposite.
_OPPOSITE: Mapping[str, str] = {
    "natural": "forged", "forged": "natural", "fake": "real", "real": "fake",
    "says_real": "says_fake", "says_fake": "says_real",
}  # fmt: skip
#: An opposite whose logit is less than this below decides nothing: the answer then takes no side.
_CLEAR = 1.0
#: "Genuine or forged" has no yes, unless yes or no is asked for; nor has what, why, or "not fake".
_SIDELESS = re.compile(
    r"^(?:(?:so|and|but|ok|then)\b,? )*(?:what|why|how|which|where|who)\b"
    r"|^(?!.*\byes\b.*\bno\b).*(?:\b(?:whether|or|instead of|rather than|not|should I worry)\b|n't\b)",
    re.I | re.S,
)
#: Words of questions to which "no" says that all is well, and to which "yes" does.
_FAULTY = re.compile(
    r"\b(?:different|odd|off|wrong|weird|strange|mismatch\w*|uneven|suspicious|unnatural|fake\w*|edited|forged|altered"
    r"|changed|pasted|artificial|too)\b",
    re.I,
)
_SOUND = re.compile(
    r"\b(?:natural|ok(?:ay)?|fine|clean|match\w*|consistent|real|genuine|normal|right)\b", re.I
)
#: A question is not understood when its likeliest family is less probable.
_LEAST = 0.2
#: A question whose likeliest family is less probable was read with little certainty.
_SURE = 0.7
#: What a question about a region asks when it names none: the whole face is meant.
_WHOLE: Mapping[str, str] = {
    "region/open": "places/where", "region/wrong": "places/where",
    "region/natural": "verdict/real", "region/forged": "verdict/fake", "region/seen": "places/where",
    "region/sure": "evidence/enough", "region/effect": "places/effect", "region/explained": "otherwise/open",
}  # fmt: skip


def understood(text: str, scores: Mapping[str, float], earlier: Sequence[str] = ()) -> Question:
    """The question, with the likeliest intent that fits the regions and techniques which it names.

    `scores` are the intents' logits. `earlier` are the questions before it, oldest first.
    """
    named = named_in(text, earlier)
    if named.pointed:  # the head reads the question alone
        scores = {
            intent: score + _POINTED * (family_of(intent) in _OF_REGIONS) for intent, score in scores.items()
        }
    likeliest = max(scores, key=scores.__getitem__)
    if family_of(likeliest) == _TWO:
        named = named.with_aspect()
    fitting = {intent: score for intent, score in scores.items() if _fits(intent, named)}
    if not named.nouns and not named.aspects and likeliest in _WHOLE:
        fitting[_WHOLE[likeliest]] = scores[likeliest]
    if len(named.nouns) > 1 and likeliest == "region/effect":
        fitting["compare/effect"] = scores[likeliest]
    family, form, named = corrected(*_chosen(fitting), named, text, earlier[-1] if earlier else "")
    regional = family in _OF_REGIONS or f"{family}/{form}" in _MAY_NAME
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
        others=tuple(regions[1:]) if family == _TWO else (),
        technique=technique,
        second_technique=second,
        unsure=family != UNCLEAR and _probability(family, fitting) < _SURE,
        unjudged=named.unjudged,
        unmeasured=named.unmeasured,
        colours=named.colours,
        sideless=_is_sideless(form, text),
    )


def _is_sideless(form: str, text: str) -> bool:
    """True when a yes or a no would not answer the question, or its form may have been read the wrong way round."""
    faulty, sound = _FAULTY.search(text), _SOUND.search(text)
    turned = (form == "natural" and faulty) or (form == "forged" and sound and not faulty)
    return bool(_SIDELESS.search(text) or turned)


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
    clear = fitting[f"{family}/{form}"] - opposite >= _CLEAR
    return family, form if clear else "open"


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
    r"(?=(?:if \w+,? |(?:on|for|in|by) )?(?:how|where|why|who|what|which|is|are|was|does|do|did|can|could|may|should"
    r"|would|will|has|have"
    r"|explain|convince)\b)",
    re.I,
)
#: Second questions that only ask whether the first thing counts.
_ECHO = re.compile(
    r"^(?:does|do|is|are|should|would) (?:this|that|it|they|these|those) (?:count|matter|worry|normal|odd|strange|weird"
    r"|suspicious|an? (?:sign|clue|hint|red flag|problem))\b",
    re.I,
)
#: Second questions of one word, in more words.
_WHOLLY: Mapping[str, str] = {
    "why": "Why do you say so?",
    "where": "Where are the artifacts?",
    "how": "How was it done?",
}


def halves(text: str) -> tuple[str, str] | None:
    """The two questions of a text that asks two: "Is it fake, and how sure are you?". None when it asks one."""
    parts = _SECOND.split(text, maxsplit=1)
    if len(parts) > 1 and _ECHO.search(parts[1]):
        return None
    parts = [_WHOLLY.get(part.lower().strip("?!., "), part) for part in parts]
    if len(parts) < 2 or any(len(part.split()) < 2 for part in parts):
        return None
    return f"{parts[0].rstrip('?!., ')}?", parts[1][:1].upper() + parts[1][1:]


def told_together(first: Question, second: Question) -> bool:
    """True when both are understood and the answers differ."""
    if (first.family, first.form) == ("plain", "user"):
        return False  # the words for a user are all that is wanted
    families = {first.family, second.family}
    told_apart = first.family == "places" and first.form != second.form
    told_apart = told_apart or (first.family == _REGIONAL and first.region is not second.region)
    return (len(families) > 1 or told_apart) and not {UNCLEAR, "about"} & families
