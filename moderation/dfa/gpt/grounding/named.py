"""What a question names, read from its words: regions, techniques, and what else it is about.

Words show that better than a language model's states do.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.claims import parts_in_order, techniques_named
from moderation.dfa.gpt.grounding.parts import ASPECTS
from moderation.dfa.gpt.grounding.sentences import NOUNS, Noun


@dataclass(frozen=True)
class Named:
    """What one question names."""

    #: The regions in their order, each as the question calls it.
    nouns: Mapping[Region, Noun]
    techniques: tuple[Technique, ...]
    #: Families of questions that it has a word for: see `_ABOUT`.
    about: frozenset[str]
    #: It names the edge of the face as a part.
    edge: bool = False

    @property
    def aspects(self) -> list[Region]:
        """What it names of the whole face: its edge, its light, its skin."""
        return [region for family, region in ASPECTS.items() if family in self.about]

    def with_aspect(self) -> "Named":
        """The same, with one aspect more to compare: the edge of the face, or any that is named with one region."""
        more = self.aspects[:1] if len(self.nouns) == 1 else [Region.FACE_BOUNDARY] if self.edge else []
        return replace(self, nouns={**self.nouns, **{each: NOUNS[each] for each in more}})


#: The edge of the face, as one of several parts.
_EDGE = re.compile(
    r"\b(?:edge|border|boundary|outline|contour|rim)s? of (?:the |his |her )?(?:face|head)\b"
    r"|\b(?:and|or) the (?:edge|border|boundary|outline|seam)\b(?! of)",
    re.I,
)
#: What a question may be about beside the regions, in the words for it.
_ABOUT: Mapping[str, str] = {
    "boundary": r"seams?|edges?|boundary|outlines?|contours?|rim|halo|borders?|blending",
    "light": r"light\w*|lit|shadows?|illumination|highlights?|reflections?",
    "tone": r"colou?r\w*|(?<!neutral )(?<!formal )(?<!polite )(?<!friendly )tones?|shades?|tints?|hues?",
    "skin": r"skin|complexion|pores?|wrinkles|fine lines|noise|grain\w*",
    "match": r"(?:mis)?match\w*|a?symmetr\w*|both|same|alike|identical\w*|equal\w*|level|than the other"
    r"|left and (?:the )?right",
    "plain": r"(?:plain|simple|simpler|easy|easier|everyday|ordinary) (?:words?|terms?|english|language)|jargon|lay\w*"
    r"|keep it (?:easy|simple)|non-?technical|no(?:t| ) technical",
    "score": r"scores?|lean\w*|best guess|likelier",
    "challenge": r"(?:don.?t|do not|can.?t|cannot) (?:see (?:that|it|any\w*)|believe (?:that|it|this))|no sense"
    r"|(?:not|un)\W?convinced|disagree|agree",
    "intent": r"jok\w+|prank|consent\w*|permission|agreed? to|on purpose",
}
#: Words for light, and for where it comes from.
_BRIGHT = r"light\w*|lit|shad\w*|highlights?|bright\w*|dark\w*|glow\w*"
_WHENCE = (
    r"where|from|because|same|backlight\w*|direction\w*|sources?|sides?|angle|add up|fit|match\w*|consistent|normal"
    r"|right"
)
#: Words without which a question hardly asks for a special intent.
_ASKS: Mapping[str, str] = {
    "region/blur": r"blur\w*|soft\w*|focus|unsharp|fuzzy|washed|detail|smear\w*",
    "region/sharpness": r"sharp\w*|over-sharpened|nois\w*|grain\w*|crisp\w*",
    "region/smoothing": r"smooth\w*|plastic|wax\w*|airbrush\w*|polish\w*|retouch\w*|texture|filter\w*|flat|iron\w*",
    "region/distortion": r"distort\w*|warp\w*|bent|twist\w*|deform\w*|stretch\w*|shap\w*|skew\w*|crooked|moved|longer"
    r"|wonky",
    "region/colour": r"colou?r\w*|tones?|shades?|tints?|hues?|pale|red\w*|discolou?r\w*",
    "about/map": r"map\w*|heat\w*|overlay\w*|colou?r\w*|blue|red|yellow|green|spots?|blobs?|bright\w*|legend|hot",
    "region/effect": r"without|hid\w*|cover\w*|remov\w*|scores?|minus|absent|weren.?t|wasn.?t|not|ignor\w*|leav\w*"
    r"|left out|pretend|suppose|depend\w*|weigh\w*|matter\w*|contribut\w*|influence\w*|role|much|if|drop\w*|chang\w*"
    r"|fall\w*",
    "region/replacement": r"replac\w*|swap\w*|(?:an)?other|some(?:one|body)|exchang\w*|pasted|foreign|belong\w*"
    r"|different",
    "light/direction": rf"(?:{_WHENCE})\b.*\b(?:{_BRIGHT})|(?:{_BRIGHT})\b.*\b(?:{_WHENCE})"
    r"|lamps?|sun\w*|window|flash|bulb|shin\w*|reflect\w*|catchlights?|glare",
    "match/open": r"(?:mis)?match\w*|a?symmetr\w*|both|same|alike|identical\w*|equal\w*|level|than the other|sides"
    r"|uneven|mirror\w*|compar\w*|two|pair|halves|left and (?:the )?right|other (?:side|half|one|eye|ear|cheek)"
    r"|lopsided|higher|lower|bigger|larger|smaller|differ\w*|even|aligned|straight|each other|wonky|crooked|tilt\w*",
    "other_media/open": r"other\w*|another|more|video\w*|frames?|clips?|film|sound|audio|voice|photos|pictures|images"
    r"|series|album|compar\w+|same|before|earlier|previous|next|second|rest|both|people|persons|matches|twice"
    r"|similar|men|women|children|kids|group|everyone|every|all|someone|behind|beside|live",
    "certainty/than": r"others?|typical\w*|usual\w*|most|average|than|rank\w*|seen|before|similar|compared|like",
    "technique_meant/signs": r"signs?|how|look|tell|recogni\w+|spot|typical\w*|usual\w*|hints?|clues?|what|where"
    r"|which|notice",
    "technique_meant/difference": r"differ\w*|distinguish\w*|tell\w*|apart|separat\w*|compar\w*|versus|vs|unlike"
    r"|(?<!boundary )(?<!border )(?<!seam )(?<!edge )(?<!line )between|contrast\w*|against|instead|than",
    "plain/user": r"users?|uploader|poster|reporter|owner|he|him|she|her|they|them|customer|client|creator|victim|press"
    r"|journalist|public|people|comments?|appeal|boss|lawyer|outside\w*|reply|respond|response|answer|explain|tell"
    r"|some(?:one|body)|message",
}
#: Short questions with such a word are about the region that the question before named.
_POINTING, _SHORT = re.compile(r"\b(?:it|its|they|them|their)\b|\bthere\W*$", re.I), 6


def named_in(text: str, earlier: Sequence[str] = ()) -> Named:
    """What a question names. `earlier` are the questions before: "it" may stand for the region of the last one."""
    nouns = _parts_asked(text)
    if not nouns and earlier and len(text.split()) <= _SHORT and _POINTING.search(text):
        nouns = _parts_asked(earlier[-1])
    asked = techniques_asked(text)
    techniques = tuple(technique for technique in Technique if technique in asked)
    spelt = _spelt(text)
    about = frozenset(
        what for what, words in _ABOUT.items() if re.search(rf"\b(?:{words})(?!\w)", spelt, re.I)
    )
    return Named(nouns, techniques, about, edge=_EDGE.search(spelt) is not None)


def asks_for(intent: str, text: str) -> bool:
    """True unless the intent is special, and the question has no word for it."""
    return intent not in _ASKS or re.search(rf"\b(?:{_ASKS[intent]})\b", text, re.I) is not None


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
_CLIPPED = frozenset({
    "iris", "hairs", "strand", "strands", "lid", "lids", "ocular", "periocular", "orbital", "periorbital", "nasal",
    "oral", "perioral", "mandible", "mandibular",
})  # fmt: skip


def _noun(region: Region, word: str) -> Noun:
    return NOUNS[region] if word in _CLIPPED else Noun(word, plural=word == "teeth" or word.endswith("s"))


#: Words of regions that are long enough to be recognised when misspelt.
_LONG = (
    "forehead", "hairline", "eyelids", "eyebrows", "pupils", "nostrils", "cheeks", "cheekbones", "mouth", "teeth",
    "smile", "jawline", "earlobes", "throat", "background", "swapped", "reenactment", "synthesis", "editing",
    "shadows", "lighting", "colours", "outline", "boundary",
)  # fmt: skip


def _spelt(text: str) -> str:
    """The text with misspelt words of `_LONG` corrected."""

    def corrected(match: re.Match[str]) -> str:
        word = match[0].lower()
        return next(iter(difflib.get_close_matches(word, _LONG, n=1, cutoff=0.86)), word)

    return re.sub(r"[A-Za-z]{5,}", corrected, text)


_ASKED: Mapping[Technique, str] = {
    Technique.FS: r"(?:face[- ]?)?swap\w*|exchanged|replac\w+ (?:the )?(?:entire |whole )?face"
    r"|another (?:person's |one's )?face",
    Technique.FR: r"re-?enact\w*|puppet\w*|animated|expression|lip[- ]?sync\w*",
    Technique.FE: r"edit\w*|retouch\w*|touched up|attribute\w*",
    Technique.EFS: r"synthesi[sz]\w*|synthetic|(?:fully|entirely|wholly|completely) (?:generated|made|invented)"
    r"|(?<!replace the )(?<!replaced the )(?<!replacing the )(?:entire|whole) face|generator"
    r"|made from nothing|from scratch"
    r"|generated (?:fully|entirely|wholly|completely)|GANs?|diffusion",
}


def techniques_asked(text: str) -> frozenset[Technique]:
    """The techniques that a question names, in any words."""
    given, text = text, _spelt(text)
    called = frozenset(each for each in Technique if re.search(rf"\b{each}\b", given))
    paraphrased = (each for each, words in _ASKED.items() if re.search(rf"\b(?:{words})\b", text, re.I))
    return techniques_named(text) | called | frozenset(paraphrased)
