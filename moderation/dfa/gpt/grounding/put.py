"""How a question is put: what its words say about its family and form, whatever a language model's states say.

A small language model confuses "natural" with "weird" and "only the mouth" with "the mouth". The words do not.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from moderation.dfa.gpt.grounding.answers import ASPECTS

#: Phrases that mean one thing, whatever else is said: to intents, "family/form".
_PHRASES: Mapping[str, str] = {
    r"\b(?:heat|evidence)[- ]?map|\b(?:the|your) map\b|\byour overlay\b": "about/map",
    r"^\W*(?:really|seriously|honestly|sure)\W*$": "certainty/open",
    r"\bbias\w*": "limits/open",
    r"^\W*(?:the |your )?verdict\b\W*(?:please|pls)?\W*$": "verdict/open",
    r"\bwhere (?:\w+ )?(?:in|on) the (?:picture|image|photo|face)\b": "places/where",
    r"^\W*who (?:dis|dat|(?:is|are) (?:this|that|it|he|she|they))\b": "who/open",
    r"\bcount the (?:flaw|artifact|fault|trace)": "places/count",
    r"\banything else\b(?! than)": "places/more",
    r"\brank\w*\b|\bin (?:what|which) order\b": "places/rank",
    r"\bagainst (?:it|this|that) being (?:an? )?(?:real|genuine|authentic|bona fide)": "reasons/open",
    r"\bmore (?:fake|forged|real|genuine) or more\b": "score/value",
}


class _Rule(NamedTuple):
    """Questions of some families that have a phrase are put in another way."""

    families: frozenset[str]
    phrase: str
    #: The family, or "" when it stays, and the form.
    family: str
    form: str
    #: The rule does not hold for this form.
    but_not: str = ""


_PARTS = frozenset({"region", *ASPECTS})
_REGION, _VERDICT, _TECHNIQUE, _CHALLENGE = (
    frozenset({family}) for family in ("region", "verdict", "technique_named", "challenge")
)
#: The text names no side: "It is fake, right?" says what it says.
_NO_VERDICT = r"^(?!.*\b(?:real|genuine|authentic|fake|forged|deepfake|manipulated|generated)\b)"
#: The first rule that holds decides.
_RULES = (
    # "Genuine or forged" has no yes. Of a swapped face it is as true as not that a machine generated it.
    _Rule(_VERDICT, r"\b(?:or|AI|artificial|computer|machine|generated)\b", "", "open"),
    _Rule(
        _REGION,
        r"\b(?:if|when|with)\b.*\b(?:hid(?:e|den|ing)|remov\w+|cover\w*)\b|\bwithout the (?!artifact|trace)"
        r"|\bhow (?:much|far|strongly)\b.*\b(?:matters?|weighs?|counts?|depends?)\b",
        "",
        "effect",
    ),
    _Rule(
        _REGION,
        r"^\W*(?:is|are|was|were) (?:it |this |that )?(?:only|just|solely)\b",
        "places",
        "more",
        but_not="natural",
    ),
    _Rule(
        _TECHNIQUE, r"^\W*(?:which|what) (?:\w+ )?(?:features?|parts?|regions?|areas?)\b", "places", "where"
    ),
    _Rule(_TECHNIQUE, r"\bor\b", "technique", "open", but_not="why_not"),
    # Two regions that are named and not compared are only listed.
    _Rule(
        frozenset({"compare"}),
        r"^(?!.*\b(?:than|compar\w+|versus|vs|which|or|worse|more|most|less)\b)",
        "",
        "each",
    ),
    _Rule(
        _PARTS,
        r"\b(?:did|have) you (?:also )?(?:look|check|examin|inspect|analy[sz])\w*",
        "",
        "open",
    ),
    _Rule(
        _CHALLENGE,
        rf"{_NO_VERDICT}.*(?:(?:not|n.t) (?:see|believe|agree)|\bsense\b|convinced|disagree)",
        "",
        "disagrees",
    ),
    _Rule(_CHALLENGE, rf"{_NO_VERDICT}.*\b(?:agree|right)\b", "", "agrees"),
    _Rule(frozenset({"maker"}), r"\b(?:are|built|made|created|trained|runs|designed) you\b", "about", "open"),
)
#: Words that say which way round a question about a part is, where it can have a yes.
_YES_OR_NO = r"^\W*(?:(?:and|so|but) )?(?:is|are|was|were|do|does|did|has|have)\b"
_SOUND = (
    r"\b(?:natural|normal|ok(?:ay)?|fine(?! (?:lines?|detail|noise))|real|genuine|consistent|legit|clean|sound|intact"
    r"|authentic|match\w*)\b"
)
_UNSOUND = (
    r"\b(?:fake|forged|edited|altered|manipulated|weird|strange|odd|wrong|off|suspicious|swapped|pasted|too|unnatural"
    r"|changed|touched|plastic|bad|generated|inconsisten\w+|mismatch\w*)\b"
)
_NOT = r"\b(?:not|never|nothing|no|none|free of|without)\b|n.t\b"


def as_put(family: str, form: str, text: str) -> tuple[str, str]:
    """Family and form, corrected by how the question is put."""
    for phrase, intent in _PHRASES.items():
        if _has(text, phrase):
            family, form = intent.split("/")
            return family, form
    for rule in _RULES:
        if family in rule.families and form != rule.but_not and _has(text, rule.phrase):
            return rule.family or family, rule.form
    sided = form in {"natural", "forged"} or (form == "open" and _has(text, _YES_OR_NO))
    if family in _PARTS and sided and not _has(text, _NOT):
        sound, unsound = _has(text, _SOUND), _has(text, _UNSOUND)
        return family, form if sound == unsound else "natural" if sound else "forged"
    return family, form


def _has(text: str, phrase: str) -> bool:
    return re.search(phrase, text, re.I) is not None
