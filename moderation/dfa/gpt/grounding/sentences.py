"""Artifacts in words: what, where, how much, and compared with what.

The facts decide every word: the kind, the region, the strength of the change, and whether the foreign part ends at a
seam. So equal facts always give equal words, which a model can learn, and other facts give other words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from moderation.analysis import Region
from moderation.dfa.gpt.grounding.facts import Kind, Touch

#: The least strengths of a plain, a clear and a glaring change. Below the first, a change is slight.
BANDS = (0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Noun:
    """A part of a face, and its grammar in a sentence."""

    word: str
    plural: bool = False
    #: Its preposition as a place.
    at: str = "in"

    def inflected(self, text: str) -> str:
        """`text` with {the}, {is}, {look} … for this noun. {The} and {Is} begin a sentence."""
        words = {
            "the": f"the {self.word}",
            "at": self.at,
            "is": "are" if self.plural else "is",
            "was": "were" if self.plural else "was",
            "does": "do" if self.plural else "does",
            "has": "have" if self.plural else "has",
            "it": "them" if self.plural else "it",
            "they": "they" if self.plural else "it",
            "belong": "belong" if self.plural else "belongs",
            "look": "look" if self.plural else "looks",
            "seem": "seem" if self.plural else "seems",
            "show": "show" if self.plural else "shows",
            "stand": "stand" if self.plural else "stands",
            "count": "count" if self.plural else "counts",
        }
        return text.format(**words, **{name.capitalize(): word.capitalize() for name, word in words.items()})


#: An artifact's name for its region.
NOUNS: Mapping[Region, Noun] = {
    Region.FOREHEAD: Noun("forehead"),
    Region.HAIRLINE: Noun("hairline"),
    Region.EYES: Noun("eyes", plural=True),
    Region.NOSE: Noun("nose"),
    Region.CHEEKS: Noun("cheeks", plural=True),
    Region.MOUTH: Noun("mouth"),
    Region.JAWLINE: Noun("jaw"),
    Region.FACE_BOUNDARY: Noun("edge of the face", at="at"),
    Region.SKIN: Noun("skin"),
    Region.EARS: Noun("ears", plural=True),
    Region.NECK: Noun("neck"),
    Region.BACKGROUND: Noun("background"),
    Region.LIGHTING: Noun("light"),
    Region.UNMAPPED: Noun("picture"),
}

#: Two wordings per kind, each for four strengths (slight, plain, clear, glaring). Half of the regions use the first.
#: {beside} is what the region is compared with.
_Strengths = tuple[str, str, str, str]
_KINDS: Mapping[Kind, tuple[_Strengths, _Strengths]] = {
    Kind.COLOUR: (
        (
            "The colour of {the} is slightly off from {beside}.",
            "The colour of {the} does not match {beside}.",
            "The colour of {the} clearly breaks with {beside}.",
            "The colour of {the} is altogether wrong beside {beside}.",
        ),
        (
            "{The} {has} a slightly other tone than {beside}.",
            "{The} {has} another tone than {beside}.",
            "{The} clearly {has} another tone than {beside}.",
            "{The} {has} a tone far from that of {beside}.",
        ),
    ),
    Kind.SOFTER: (
        (
            "{The} {is} slightly softer than {beside}.",
            "{The} {is} softer than {beside} and {has} less fine detail.",
            "{The} {is} clearly more blurred than {beside}.",
            "{The} {is} far more blurred than {beside}, with fine detail lost.",
        ),
        (
            "{The} {has} a little less fine detail than {beside}.",
            "{The} {look} blurred, while {beside} is sharper.",
            "{The} {has} clearly lost fine detail that {beside} has.",
            "{The} {has} hardly any fine detail left, while {beside} is crisp.",
        ),
    ),
    Kind.SHARPER: (
        (
            "{The} {is} slightly sharper than {beside}.",
            "{The} {is} sharper and noisier than {beside}.",
            "{The} {is} clearly sharper than {beside}.",
            "{The} {is} far sharper than {beside}, with harsh fine noise.",
        ),
        (
            "{The} {show} a little more fine noise than {beside}.",
            "{The} {stand} out crisper and grainier than {beside}.",
            "{The} {look} clearly too sharp and grainy beside {beside}.",
            "{The} {look} extremely sharp and grainy beside {beside}.",
        ),
    ),
    Kind.REPLACED: (
        (
            "{The} {does} not quite fit {beside} in texture and light.",
            "{The} {look} brought from another face: texture and light do not fit {beside}.",
            "{The} clearly {does} not fit {beside} in texture and light.",
            "{The} plainly {belong} to another face: texture and light break with {beside}.",
        ),
        (
            "The texture of {the} differs slightly from {beside}.",
            "{The} {look} pasted in, with another texture and light than {beside}.",
            "{The} {look} clearly pasted in: texture and light break with {beside}.",
            "{The} {has} nothing in common with {beside} in texture or light.",
        ),
    ),
    Kind.SMOOTHED: (
        (
            "{The} {is} a little smoother than {beside}.",
            "{The} {is} smoothed: fine lines that {beside} has are missing.",
            "{The} {is} clearly too smooth, without the fine lines of {beside}.",
            "{The} {is} unnaturally smooth, with no texture left beside {beside}.",
        ),
        (
            "{The} {has} slightly less texture than {beside}.",
            "{The} {look} too even, with less texture than {beside}.",
            "{The} {look} clearly airbrushed: the texture of {beside} is missing.",
            "{The} {look} painted flat beside {beside}.",
        ),
    ),
    Kind.WARPED: (
        (
            "The shape of {the} is slightly bent.",
            "The shape of {the} is bent, and its texture is stretched.",
            "The shape of {the} is clearly distorted, with stretched texture.",
            "The shape of {the} is grossly distorted, with stretched and blurred texture.",
        ),
        (
            "{The} {look} slightly pulled out of shape.",
            "{The} {look} pulled out of shape, with stretched texture.",
            "{The} {is} clearly pulled out of shape, with smeared texture.",
            "{The} {is} pulled far out of shape, with smeared texture.",
        ),
    ),
    Kind.PATTERN: (
        (
            "{The} {show} a faint regular pattern and an even texture.",
            "{The} {show} the regular fine pattern of a generator.",
            "{The} clearly {show} the regular pattern of a generator.",
            "{The} {show} the regular pattern of a generator everywhere.",
        ),
        (
            "A faint regular pattern lies over {the}.",
            "The regular fine pattern of a generator lies over {the}.",
            "The regular pattern of a generator clearly lies over {the}.",
            "A heavy regular pattern of a generator lies over {the}.",
        ),
    ),
    Kind.SEAM: (
        (
            "A faint seam runs along {the}.",
            "A seam runs along {the}, where two textures meet.",
            "A clear seam runs along {the}, where two textures break off.",
            "A hard seam runs along {the}, where colour and texture break off.",
        ),
        (
            "A faint seam runs through {the}.",
            "A seam runs through {the}, where two textures meet.",
            "A clear seam runs through {the}, where two textures break off.",
            "A hard seam runs through {the}, where colour and texture break off.",
        ),
    ),
}

#: The seam by strength, and the difference across it by the kind of the strongest change inside.
_SEAMS: _Strengths = (
    "A faint seam runs around the face",
    "A seam runs around the face",
    "A clear seam runs around the face",
    "A hard seam runs around the face",
)
_PARTED: Mapping[Kind, str] = {
    Kind.SOFTER: "inside it the picture is softer than outside",
    Kind.SHARPER: "inside it the picture is sharper than outside",
    Kind.COLOUR: "inside it the colours are other than outside",
    Kind.REPLACED: "inside it lies another face",
    Kind.SMOOTHED: "inside it the picture is smoother than outside",
    Kind.WARPED: "inside it the face is bent",
    Kind.PATTERN: "inside it the picture looks generated",
}

#: The half of the regions that uses the first wording, so that most faces have both.
_FIRST = {Region.FOREHEAD, Region.NOSE, Region.MOUTH, Region.SKIN, Region.UNMAPPED, Region.NECK}


def strength_band(strength: float) -> int:
    """0 slight, 1 plain, 2 clear, 3 glaring."""
    return sum(strength >= least for least in BANDS)


def worded(touch: Touch, facts: Sequence[Touch]) -> str:
    """One artifact as a sentence. `facts` are all known facts of the face, including this one."""
    band = strength_band(touch.strength)
    seam = any(fact.kind is Kind.SEAM for fact in facts)
    if touch.kind is Kind.SEAM and touch.region is Region.FACE_BOUNDARY:
        within = max(
            (fact for fact in facts if fact.kind is not Kind.SEAM), key=lambda f: f.strength, default=None
        )
        return f"{_SEAMS[band]}." if within is None else f"{_SEAMS[band]}; {_PARTED[within.kind]}."
    noun = Noun("whole picture") if touch.region is Region.UNMAPPED else NOUNS[touch.region]
    return noun.inflected(_frame(touch, seam=seam))


def worded_together(touches: Sequence[Touch], facts: Sequence[Touch]) -> list[str]:
    """Artifacts as sentences, where parts that show the same are told in one. `facts` are as for `worded`."""
    seam = any(fact.kind is Kind.SEAM for fact in facts)
    alike: dict[str, list[Touch]] = {}
    for touch in touches:
        own = touch.region in {Region.UNMAPPED, Region.FACE_BOUNDARY}
        alike.setdefault(worded(touch, facts) if own else _frame(touch, seam=seam), []).append(touch)
    return [
        worded(group[0], facts)
        if len(group) == 1
        else Noun(_enumerated([NOUNS[touch.region].word for touch in group]), plural=True).inflected(frame)
        for frame, group in alike.items()
    ]


def _enumerated(words: Sequence[str]) -> str:
    return f"{', the '.join(words[:-1])} and the {words[-1]}"


def _frame(touch: Touch, *, seam: bool) -> str:
    """The sentence about a part, without its noun."""
    wording = _KINDS[touch.kind][0 if touch.region in _FIRST else 1][strength_band(touch.strength)]
    return wording.replace("{beside}", _beside(touch.region, seam=seam))


def _beside(region: Region, *, seam: bool) -> str:
    if seam:
        return "the picture outside the seam"
    if region in {Region.SKIN, Region.FACE_BOUNDARY, Region.EARS, Region.NECK, Region.HAIRLINE}:
        return "the rest of the picture"
    if region in {Region.UNMAPPED, Region.BACKGROUND, Region.LIGHTING}:
        return "a photograph"
    return "the face around {it}"


def touch_of(regions: Sequence[Region], sentence: str) -> Touch | None:
    """The fact that `worded` puts into this sentence about one region, at its band's least strength. None: no fact."""
    return _read().get((regions[0], sentence)) if len(regions) == 1 else None


@cache
def _read() -> Mapping[tuple[Region, str], Touch]:
    facts = [Touch(region, kind, least) for region in NOUNS for kind in Kind for least in (0.0, *BANDS)]
    read: dict[tuple[Region, str], Touch] = {}
    for touch in facts:
        for others in (
            [],
            [Touch(Region.MOUTH, Kind.SEAM, 0.0)],
            *([Touch(Region.MOUTH, kind, 0.0)] for kind in _PARTED),
        ):
            read.setdefault((touch.region, worded(touch, [touch, *others])), touch)
    return read
