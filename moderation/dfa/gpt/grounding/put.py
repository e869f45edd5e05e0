"""How a question is put: what its words say about its family and form, whatever a language model's states say.

A small language model confuses "natural" with "weird", and "is it forged" with "is it forged or not". The words do not.
"""

import re
from typing import NamedTuple

from moderation.dfa.gpt.grounding.parts import ASPECTS

#: Families of questions about parts.
_PARTS = frozenset({"region", *ASPECTS})
#: Words with which a question about the verdict has no yes. Of a swapped face it is as true as not that AI made it.
_NO_YES = r"\b(?:or|whether|could|might|may|AI|artificial|computer|machine|generated)\b"
#: Words that say which way round a question about a part is, where it can have a yes.
_YES_OR_NO = r"^\W*(?:(?:and|so|but) )?(?:is|are|was|were|do|does|did|has|have)\b"
_REAL = r"\b(?:real|genuine|authentic)\b"
#: A yes or a no is asked for, of something that is not denied.
_YES_NO = r"^(?=.*\byes\b.*\bno\b)(?!.*(?:\bnot\b|n.t\b))"
_FAKE = r"\b(?:deepfake|fake|forged|synthetic|generated|manipulated|edited|AI)\b"
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
    r"(?:just|only|simply|merely|maybe|perhaps|rather|more like|an?|some\w*"
    r"|the (?:light\w*|angle|camera|pose|lens|compression|filter|quality))\b"
)
#: A question how sure the model is wants a number.
_NUMBER = (
    r"(?:%|\b(?:percent\w*|probab\w+|odds|likelihood|how likely|numbers?|(?:out of|to|-) ?(?:100?|ten))\b)"
)
#: One explanation is offered beside a forgery: "make-up or AI?".
_OR_FORGED = (
    r"\b(?:shadow\w*|filter\w*|hdr|make-?up|compress\w+|jpe?g|sharpening|lens|angle|motion|retouch\w*"
    r"|processing|portrait mode|light\w*|camera)\b[^?]*\bor\b"
)
_TO = r"(?:the|his|her|their|and|or|than|to|from|with|against|vs)"
#: One side is held against the other.
_SIDES = rf"^(?!.*\bnot the (?:left|right)\b).*(?:\bleft\b.*\b{_TO} right\b|\bright\b.*\b{_TO} left\b)"
_LANGUAGES = (
    "german|deutsch|french|spanish|español|portuguese|italian|polish|dutch|russian|ukrainian|turkish|arabic|hebrew|hindi"
    "|urdu|bengali|chinese|mandarin|japanese|korean|vietnamese|thai|swahili|swedish|greek|my language|another language"
)
_TINTS = r"redder|reddish|yellow\w*|pink\w*|orange|purple|green\w*|bluish|pale|grey|washed out|tint\w*"
_BEHIND = r"background|backdrop|wallpaper|(?:wall|office|room|scene) behind"
_WORN = r"(?:eye)?glasses|sunglasses|lenses|hat|cap|beanie|scarf|hijab|jewel\w*|necklace|earrings?|collar|tie"
#: A question that begins with what it is about.
_IS_THE = (
    r"^\W*(?:and |so |but |ok |look at )?(?:do|does|is|are|was|were|the)\W+(?:(?:the|his|her|those|these|this|that) )?"
    r"(?:(?:rims?|edge|brim|frames?) of (?:the|his|her) )?(?:(?:hoop|metal|gold|black|dark|plain|blue|grey) )?"
)
#: People whom a question asks about by what they are known for.
_WELL_KNOWN = (
    r"\b(?:act(?:or|ress)|politician|celebrit\w+|singer|famous|footballer|senator|president|minister)\b"
)
_NOT = r"\b(?:not|never|nothing|no|none|free of|without)\b|n.t\b|\b(?:do|does|did|is|are|was)nt\b"


class _Rule(NamedTuple):
    """A question that was read so, and has such words, is read otherwise."""

    #: A pattern that "family/form" begins with.
    read: str
    words: str
    family: str
    form: str


_RULES = (
    # One that asks for a yes or a no gets it.
    _Rule("verdict/", rf"{_YES_NO}(?!.*{_REAL}).*{_FAKE}", "verdict", "fake"),
    _Rule("verdict/", rf"{_YES_NO}(?!.*{_FAKE}).*{_REAL}", "verdict", "real"),
    # Whether something is called a deepfake at all asks for a meaning.
    _Rule(
        "verdict/|tone/",
        r"\bin your book\b(?!.*\bthis\b)|(?<!this )(?<!it )(?<!that )\bcounts? as\b|\bdoes bona fide mean\b",
        "technique_meant",
        "meant",
    ),
    # "Genuine or forged" has no yes, "Could it be forged" no clear one.
    _Rule("verdict/fake|verdict/real", _NO_YES, "verdict", "open"),
    _Rule("technique/", rf"{_REAL}.*\bfakes?\b|\bfakes?\b.*{_REAL}", "verdict", "open"),
    _Rule("technique_named/named", r"\b(?:or|rather|whether)\b", "technique", "open"),
    _Rule("technique_named/", r"\bwho(?:se|m)?\b", "technique", "before"),
    _Rule("attributes/|other_media/", r"\b(?:driven|re-?enact\w*|puppet\w*)\b", "technique_named", "named"),
    # What else is asked for with the verdict is told with it.
    _Rule("verdict/", r"\bscores?\b", "score", "open"),
    _Rule("verdict/", r"\bconfiden\w+|\bcertainty\b", "summary", "open"),
    _Rule("certainty/", _NUMBER, "score", "probability"),
    _Rule("certainty/", r"\btechniques?\b", "technique", "others"),
    _Rule("places/much", r"\bscale\b|\bout of\b", "score", "open"),
    _Rule(
        "score/",
        r"\b(?:far|close|distance|limits?|thresholds?|opposite|flip\w*|cut-?off)\b",
        "score",
        "open",
    ),
    _Rule("score/", r"\b(?:flagged|reported)\b(?!.*\bscores?\b)", "verdict", "open"),
    # Words that belong to one subject, whatever the rest of the question is about.
    _Rule(
        "(?!about/|text/|off_topic/)",
        rf"\b(?:in|into|to|auf|en) (?!polish \w)(?:{_LANGUAGES})\b",
        "about",
        "language",
    ),
    _Rule(
        "reasons/|where/|places/",
        r"^(?!.*\b(?:taken|shot|city|country)\b).*\b(?:(?:heat ?)?map|overlay)\b",
        "about",
        "map",
    ),
    _Rule("reasons/|places/|evidence/why|about/distress", rf"\b(?:{_TINTS})\b", "tone", "open"),
    _Rule("region/|compare/open", _SIDES, "match", "open"),
    _Rule("about/thanks", r"\bshorter\b", "summary", "short"),
    _Rule("scope/", r"\b(?:can|could|should) I\b|\bmyself\b", "next", "open"),
    _Rule("scope/open", r"\bflag(?:ged)?\b|\bmark(?:ed)?\b", "places", "where"),
    _Rule("limits/rates", rf"{_NUMBER}.*\b(?:here|this (?:face|picture|one|case))\b", "score", "probability"),
    _Rule("maker/|when/|where/|things/", _WELL_KNOWN, "who", "open"),
    _Rule("sanction/", r"^(?!.*\bwhom?\b).*\b(?:escalat\w+|second (?:review\w*|opinion))", "next", "open"),
    _Rule("boundary/fits|match/", rf"\b(?:{_WORN})\b", "things", "open"),
    _Rule("boundary/|compare/|region/|verdict/", rf"{_IS_THE}(?:{_WORN})\b", "things", "open"),
    _Rule("limits/picture", rf"\b(?:{_BEHIND})\b", "things", "open"),
    _Rule("boundary/|verdict/", rf"{_IS_THE}(?:{_BEHIND})\b(?!.*\b(?:face|head|hair)\b)", "things", "open"),
)


def as_put(family: str, form: str, text: str) -> tuple[str, str]:
    """Family and form, corrected by how the question is put."""
    for rule in _RULES:
        if re.match(rule.read, f"{family}/{form}") and _has(text, rule.words):
            return rule.family, rule.form
    if family not in _PARTS:
        return family, form
    if _has(text, _OR_ELSE) or _has(text, _OR_FORGED) or _has(text, r"\bexplain\w*"):
        return family, "explained"
    sided = form in {"natural", "forged"} or (form == "open" and _has(text, _YES_OR_NO))
    if not sided:
        return family, form
    sound, unsound, negated = (_has(text, words) for words in (_SOUND, _UNSOUND, _NOT))
    if negated or (sound and _has(text, r"\bor\b")):
        return family, "open"
    return family, form if sound == unsound else "natural" if sound else "forged"


def _has(text: str, phrase: str) -> bool:
    return re.search(phrase, text, re.I) is not None
