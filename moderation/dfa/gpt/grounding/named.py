"""What a question names, read from its words: regions, techniques, aspects of the whole face, and things beside it.

Words show that better than a language model's states do.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.claims import parts_in_order, techniques_named
from moderation.dfa.gpt.grounding.known import Unjudged
from moderation.dfa.gpt.grounding.sentences import NOUNS, Noun


@dataclass(frozen=True)
class Named:
    """What one question names."""

    #: The regions in their order, each as the question calls it.
    nouns: Mapping[Region, Noun]
    techniques: tuple[Technique, ...]
    #: What it names of the whole face: its edge, its light, its skin.
    aspects: tuple[Region, ...] = ()
    #: What it names of those beside other parts: "the nose, the eyes and the skin".
    beside: tuple[Region, ...] = ()
    #: Its region is that of the question before, for which it has a word such as "it".
    pointed: bool = False
    #: It names a light that the parts are seen in: "the eyes on the shadow side".
    in_light: bool = False
    #: The first thing that it names and that is never judged.
    unjudged: Unjudged | None = None
    #: What it names of several parts at once and is never measured, in words: "how parts line up".
    unmeasured: str | None = None
    #: It speaks of colours.
    colours: bool = False

    def with_edge(self) -> "Named":
        """The same, with the edge of the face as one region more."""
        return replace(self, nouns={**self.nouns, Region.FACE_BOUNDARY: NOUNS[Region.FACE_BOUNDARY]})

    def with_aspect(self) -> "Named":
        """The same, with the aspects that are named like parts, or with any that is named with one region."""
        lit = self.in_light or self.colours
        more = self.aspects[:1] if len(self.nouns) == 1 and not lit else self.beside
        return replace(self, nouns={**self.nouns, **{each: NOUNS[each] for each in more}})


#: What belongs to the whole face, as one of several parts.
_BESIDE: Mapping[Region, str] = {
    Region.FACE_BOUNDARY: r"\b(?:edge|border|boundary|outline|contour|rim)s? of (?:the |his |her )?(?:face|head)\b"
    r"|\b(?:and|or) the (?:edge|border|boundary|outline|seam)\b(?! of)",
    Region.SKIN: r"(?:,|\b(?:and|or|nor|vs|versus)) (?:the |his |her |its )?skin\b"
    r"(?! (?:of|on|in|at|around|near|tone|colou?r))|\bskin,? (?:and|or|vs|versus)\b",
}
#: Words for what belongs to the whole face.
_ASPECTS: Mapping[Region, str] = {
    Region.FACE_BOUNDARY: r"seams?|edges?|boundary|outlines?|contours?|rim|halo|borders?|blending",
    Region.LIGHTING: r"light\w*|lit|shadows?|illumination|highlights?|reflections?|colou?r\w*|tones?|shades?|tints?"
    r"|hues?",
    Region.SKIN: r"skin|complexion|pores?|wrinkles|fine lines|noise|grain\w*",
}
_IN_LIGHT = re.compile(
    r"\b(?:in|on|under|into|at) (?:the |this |that )?(?:\w+ )?(?:light(?:ing)?|shadows?|shade)\b", re.I
)
#: Details on a face.
_MARKS = (
    r"freckles?|moles?|scars?|(?<!you )(?<!to )(?<!I )(?<!can )spots?|dots?|patch(?:es)?|blotch(?:es)?|blemish(?:es)?"
    r"|pimples?|dimples?|wrinkles?|creases?|stains?|veins?|bumps?|bruises?|blobs?"
    r"|crow's feet|birthmarks?|tattoos?|piercings?|strands?|streaks?|smears?|smudges?|stripes?|bindi"
    r"|catch ?lights?|glints?|glare|eye ?shadow|eye ?liner|mascara|lipstick|blush|eye ?bags|dark circles"
)
#: What is worn or beside a face.
_THINGS = (
    r"(?:sun)?glasses|spectacles|lenses|goggles|collars?|lapels?|shirts?|t-shirts?|blouse|jacket|coat|suit|tie|bow ?tie"
    r"|sweater|jumper|hoodie|dress|uniform|scarf|hats?|cap|beanie|helmet|hood|headscarf|hijab|veil|turban|headband"
    r"|face ?mask|zippers?|buttons?|necklaces?|chain|pendant|pearls?|ear ?rings?|hoops?|studs?|rings?|wristwatch|brooch"
    r"|pin(?! down)|badge|lanyard|jewel(?:le)?ry|(?<!other )hands?|fingers?|arms?|shoulders?|microphones?|mic|phone"
    r"|walls?|curtains?|sky|trees?|leaves|flowers?|plants?|windows?|backdrop|logos?|watermarks?"
    r"|(?<!red )(?<!to )(?<!you )(?<!we )(?<!I )flags?|posters?"
    r"|book ?shelf|books|furniture|car|clothes|clothing|headphones?|earbuds?|headset|black bars?"
)
#: What is never measured, by the words for it.
_UNMEASURED: Mapping[str, str] = {
    "where eyes look": r"gazes?|(?:same|different|two|other) (?:directions?|ways?)|cross-?eyed|looking at the same",
    "how parts line up": r"align\w*|(?:line|lines|lined|lining) up|tilt\w*|slant\w*|crooked|level with",
    "whether the two sides match": r"a?symmetr\w*|both sides of the face|left and (?:the )?right (?:side|half)",
    "sizes and proportions": r"proportion\w*|anatom\w*|too (?:big|large|small|long|short|wide|narrow|thick)",
}
_COLOURS = re.compile(
    r"\b(?:colou?r\w*|recolou?r\w*|tones?|shades?|tints?|hues?|complexion|tan|tanned|orange|purple"
    r"|(?:redd|pink|yellow|brown|blu|grey|gray|pal)(?:er|ish)|red|pink|yellow|pale)\b",
    re.I,
)
#: Short questions with such a word are about the region that the question before named.
_POINTING, _SHORT = re.compile(r"\b(?:it|its|they|them|their)\b|\bthere\W*$", re.I), 6


def named_in(text: str, earlier: Sequence[str] = ()) -> Named:
    """What a question names. `earlier` are the questions before: "it" may stand for the region of the last one."""
    nouns = _parts_asked(text)
    pointed = (
        not nouns and bool(earlier) and len(text.split()) <= _SHORT and _POINTING.search(text) is not None
    )
    if pointed:
        nouns = _parts_asked(earlier[-1])
    asked = techniques_asked(text)
    techniques = tuple(technique for technique in Technique if technique in asked)
    spelt = _spelt(text)
    aspects = tuple(
        region for region, words in _ASPECTS.items() if re.search(rf"\b(?:{words})(?!\w)", spelt, re.I)
    )
    beside = tuple(region for region, words in _BESIDE.items() if re.search(words, spelt, re.I))
    return Named(
        nouns,
        techniques,
        aspects,
        beside,
        pointed and bool(nouns),
        _IN_LIGHT.search(spelt) is not None,
        _unjudged(text),
        _unmeasured(text),
        _COLOURS.search(spelt) is not None,
    )


def _unmeasured(text: str) -> str | None:
    return next(
        (told for told, words in _UNMEASURED.items() if re.search(rf"\b(?:{words})\b", text, re.I)), None
    )


def _unjudged(text: str) -> Unjudged | None:
    match = re.search(rf"\b(?:(?P<mark>{_MARKS})|(?P<thing>{_THINGS}))(?!\w)", text, re.I)
    return match and Unjudged(match[0].lower(), on_face=match["mark"] is not None)


def regions_asked(text: str) -> dict[Region, Noun]:
    """The regions of a face that a question names, in its order, as it calls them. Longer words may be misspelt."""
    spelt = re.sub(r"\b(?:lip|face)[- ]?(?:sync|swap)\w*", " ", _spelt(text), flags=re.I)  # a technique
    return {region: _noun(region, words) for region, words in parts_in_order(spelt).items()}


def _parts_asked(text: str) -> dict[Region, Noun]:
    """The regions that a question names, without the face's edge, which is a family of its own."""
    return {
        region: noun for region, noun in regions_asked(text).items() if region is not Region.FACE_BOUNDARY
    }


#: Words for a part of a region that would sound odd in an answer. "Iris" is the only singular that ends in s.
_CLIPPED = frozenset({
    "iris", "hairs", "strand", "strands", "lid", "lids", "ocular", "periocular", "orbital", "periorbital", "nasal",
    "oral", "perioral", "mandible", "mandibular", "earring", "earrings",
})  # fmt: skip


def _noun(region: Region, words: Sequence[str]) -> Noun:
    """The region as these words call it, by the first two that differ: "lips and the teeth"."""
    first = words[0]
    if first in _CLIPPED:
        return NOUNS[region]
    stems = {first.removesuffix("s"), "gaze", *_CLIPPED}
    second = next(
        (word for word in words[1:] if word.removesuffix("s") not in stems and word not in stems), None
    )
    if second is not None:
        return Noun(f"{first} and the {second}", plural=True)
    return Noun(first, plural=first == "teeth" or first.endswith("s"))


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
