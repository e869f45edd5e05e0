"""What a question's own words say more surely than the head that reads its intent.

The head takes an edge for the edge of the face, and a question about the tilt of the eyes for one about a seam. The
parts and the words that stand in the question set that right.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from moderation.analysis import Region
from moderation.dfa.gpt.grounding.beside import SCORED, UNKNOWABLE, WEIGHS, causes_named, is_alternative
from moderation.dfa.gpt.grounding.named import Named

#: Families that ask for the verdict, and for how the picture was made.
_JUDGING = frozenset({"verdict", "certainty", "reasons", "challenge"})
_MAKING = frozenset({"maker", "technique", "technique_named", "certainty"})
#: "Is this frame genuine?"
_THIS_ONE = (
    r"^(?:(?:so|and|but|ok),? )?is (?:this|the) (?:frame|picture|photo|image|portrait|still|face|selfie) "
    r"(?:real|genuine|authentic|fake|forged|manipulated|a deepfake|bona fide)\b|\b(?:the|your) verdict\b"
)
#: Questions of these families with such words, and the intent that they have. None: any that a picture can answer.
_BY_WORDS: Sequence[tuple[frozenset[str] | None, re.Pattern[str], tuple[str, str]]] = [
    (families, re.compile(words, re.I | re.S), intent)
    for families, words, intent in (
        (_JUDGING, r"\b(?:undetermined|undecided|thresholds?|borderline|cut-?offs?)\b", ("score", "open")),
        (
            frozenset({"certainty"}),
            r"\b(?:scale|percent\w*|out of (?:10|ten|100|a hundred))\b|%|\bto (?:10|100)\b",
            ("score", "probability"),
        ),
        (
            _MAKING,
            r"\bGANs?\b.*\bdiffusion\b|\bdiffusion\b.*\bGANs?\b",
            ("technique_meant", "difference"),
        ),
        (
            frozenset({"other_media", "quality", "attributes"}),
            _THIS_ONE,
            ("verdict", "open"),
        ),
        (
            frozenset({"limits"}),
            r"\brel(?:y|ied|ies) on\b|\brests? on\b|\bgo by\b|\bbased? on\b",
            ("reasons", "open"),
        ),
        (
            None,
            r"\bcounts? as (?:an? |face |image |photo )*(?:manipulat|forg|fak|deepfak|edit|tamper)",
            ("technique_meant", "meant"),
        ),
    )
]
#: "And the nose?" asks the same as the question before.
_AND_THAT = re.compile(r"^(?:and|what about|same for|how about)\b(?:\W+\w+){1,4}\W*$", re.I)
#: A question how sure a technique is.
_SURE = re.compile(r"\b(?:how|less|more) (?:sure|certain|confident)\b|\bconfidence\b|\bprobab\w+\b", re.I)
_HIDDEN = re.compile(r"\b(?:hid(?:e|den|ing)|ignor\w+|cover\w*|without|left out|leave out)\b", re.I)
_SMOOTH = re.compile(r"\b(?:smooth\w*|airbrush\w*|plastic|waxy|wax|pores?|retouch\w*)\b", re.I)
#: Things that lie behind a face, and cover nothing of it.
_BEHIND = re.compile(
    r"walls?|curtains?|sky|trees?|leaves|flowers?|plants?|windows?|backdrop|logos?|posters?|book ?shelf|books|furniture"
    r"|car",
    re.I,
)
#: Forms that ask how a region looks.
_LOOKS = frozenset({"natural", "forged", "open", "wrong"})
#: Regions within the edge of a face. What edge a question sees there is theirs.
_INNER = frozenset({Region.EYES, Region.NOSE, Region.MOUTH})


def corrected(family: str, form: str, named: Named, text: str, before: str = "") -> tuple[str, str, Named]:
    """The intent that the words have, and what the question is about. `before` is the question before it."""
    for families, words, intent in _BY_WORDS:
        asked = family not in UNKNOWABLE if families is None else family in families
        if asked and words.search(text):
            return *intent, replace(named, techniques=()) if families is None else named
    match family, form:
        case "technique_named", "named" if len(named.techniques) > 1:
            return "technique", "others", named  # "A swap or an edit?" has no yes
        case "region", _ if form in _LOOKS and _AND_THAT.search(text) and _HIDDEN.search(before):
            return "region", "effect", named
        case "skin", "forged" | "open" if _SMOOTH.search(text):
            return "skin", "smoothing", named
        case "region", "seen" if Region.FACE_BOUNDARY in named.aspects:
            return "boundary", "open", named  # a seam is no single detail: it is looked for
        case "things", _ if list(named.nouns) not in ([], [Region.BACKGROUND]):
            return "region", "seen", named  # a patch on the cheek
        case "technique", "open" if _SURE.search(text):
            return "technique", "others", named  # whose answer has the shares
        case "compare", _ if WEIGHS.search(text) and SCORED.search(text):
            return "compare", "effect", named
        case "compare", _ if is_alternative(text) or ("explain" in text.lower() and causes_named(text)):
            return "otherwise", "open", named
        case "region", _ if form in {*_LOOKS, "seen"} and is_alternative(text):
            return "region", "explained", named
        case "limits", "picture" if named.unjudged and _BEHIND.fullmatch(named.unjudged.word):
            return "things", "open", named
        case "limits", "picture" if named.nouns and not causes_named(text):
            return _harms(named, text)
        case _ if named.unmeasured and _of_measures(family, form, named):
            return "match", "open", named
        case "boundary", _:
            return _at_edge(form, named)
        case _:
            return family, form, named


def _harms(named: Named, text: str) -> tuple[str, str, Named]:
    """What a question asks for that names a part of the picture, and nothing that harms a judgement."""
    if Region.BACKGROUND in named.nouns:
        return "things", "open", named
    if len(named.nouns) > 1 or named.unjudged or not WEIGHS.search(text):
        return "limits", "picture", named
    return "region", "effect", named


def _of_measures(family: str, form: str, named: Named) -> bool:
    """True for a question that may ask how parts lie to each other, rather than how they look."""
    match family, form:
        case "light", _:
            return Region.LIGHTING not in named.aspects
        case "region", _:
            return form in _LOOKS
        case ("compare", _) | ("boundary", "fits"):
            return True
        case _:
            return False


def _at_edge(form: str, named: Named) -> tuple[str, str, Named]:
    """What a question about an edge asks for: that of the face, of its colours, or of the parts that it names."""
    if form == "fits" and named.colours:
        return "tone", "natural", named
    parts = {region: noun for region, noun in named.nouns.items() if region is not Region.BACKGROUND}
    inner = {region: noun for region, noun in parts.items() if region in _INNER}
    outer = {region: noun for region, noun in parts.items() if region not in _INNER}
    if outer and form != "fits":
        of_edge = Region.FACE_BOUNDARY in named.aspects
        return "compare", "open", replace(named, nouns=outer if of_edge else parts).with_edge()
    if outer or not inner:
        return "boundary", form, named
    form = form if form in _LOOKS and len(inner) == 1 else "open"
    return "region" if len(inner) == 1 else "compare", form, replace(named, nouns=inner)
