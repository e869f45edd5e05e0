"""How a question is put: what its words say about its family and form, whatever a language model's states say.

A small language model confuses "natural" with "weird", and "is it forged" with "is it forged or not". The words do not.
"""

import re

from moderation.dfa.gpt.grounding.parts import ASPECTS

#: Families of questions about parts.
_PARTS = frozenset({"region", *ASPECTS})
#: Words with which a question about the verdict has no yes. Of a swapped face it is as true as not that AI made it.
_NO_YES = r"\b(?:or|whether|could|might|may|AI|artificial|computer|machine|generated)\b"
#: Words that say which way round a question about a part is, where it can have a yes.
_YES_OR_NO = r"^\W*(?:(?:and|so|but) )?(?:is|are|was|were|do|does|did|has|have)\b"
_REAL = r"\b(?:real|genuine|authentic)\b"
_SOUND = (
    r"\b(?:natural|normal|ok(?:ay)?|fine(?! (?:lines?|detail|noise))|real|genuine|consistent|legit|clean|sound|intact"
    r"|authentic|match\w*)\b"
)
_UNSOUND = (
    r"\b(?:fake|forged|edited|altered|manipulated|weird|strange|odd|wrong|off|suspicious|swapped|pasted|too|unnatural"
    r"|changed|touched|plastic|bad|generated|inconsisten\w+|mismatch\w*)\b"
)
#: Another explanation is offered: "or only the pose?".
_OR_ELSE = (
    r"\bor\b(?: is| was| are)?(?: it| this| that)? "
    r"(?:just|only|simply|merely|maybe|perhaps|rather|more like|an?|the|some\w*)\b"
)
#: A question how sure the model is wants a number.
_NUMBER = (
    r"%|\b(?:percent\w*|probab\w+|odds|likelihood|how likely|numbers?|out of (?:a hundred|100|ten|10))\b"
)
_NOT = r"\b(?:not|never|nothing|no|none|free of|without)\b|n.t\b|\b(?:do|does|did|is|are|was)nt\b"


def as_put(family: str, form: str, text: str) -> tuple[str, str]:
    """Family and form, corrected by how the question is put."""
    # "Genuine or forged" has no yes, "Could it be forged" no clear one.
    if family == "verdict" and _has(text, _NO_YES):
        return family, "open"
    if family == "technique" and _has(text, _REAL) and _has(text, r"\bfakes?\b"):
        return "verdict", "open"
    if (family, form) == ("technique_named", "named") and _has(text, r"\b(?:or|rather|whether)\b"):
        return "technique", "open"
    if family == "verdict" and _has(text, r"\bscores?\b"):
        return "score", "open"  # its answer tells the verdict too
    if family == "certainty" and _has(text, _NUMBER):
        return "score", "probability"
    if family == "region" and _has(text, _OR_ELSE):
        return family, "explained"
    sided = form in {"natural", "forged"} or (form == "open" and _has(text, _YES_OR_NO))
    if family not in _PARTS or not sided:
        return family, form
    sound, unsound, negated = (_has(text, words) for words in (_SOUND, _UNSOUND, _NOT))
    if negated:
        return family, "open"
    return family, form if sound == unsound else "natural" if sound else "forged"


def _has(text: str, phrase: str) -> bool:
    return re.search(phrase, text, re.I) is not None
