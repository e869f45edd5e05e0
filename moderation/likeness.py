"""When two pictures look alike: PDQ hashes of 256 bits, and the bands by which an index finds all near hashes.

A likeness is a reason to look at two pictures side by side, and nothing else: most simple face swaps look like the
picture that they were made of. No verdict and no decision is copied by it.

The index. Two hashes at a distance of `NEAR` or less agree almost wholly somewhere. The 256 bits are cut into bands,
and two neighbouring bands make a pair. A band may differ by `reach` bits. A pair may differ by `bound` bits: one more
than the reaches of its two bands. If every pair differed by more than its bound, the hashes would differ by at least
the sum of all (bound + 1), which is 32. So in near hashes some pair stays within its bound. In that pair one band stays
within its reach, or the pair would differ by (reach + 1) + (reach + 1) = bound + 1. It is therefore enough to look up
every word within reach of each band, and to keep the pairs within their bound. This is multi-index hashing (Norouzi,
Punjani and Fleet 2014) with uneven reaches (Qin et al. 2018): 1,194 words are looked up, a million hashes give about
1,900 entries, and some fifteen of them are compared whole.

A wide band has two indexes, so that a look-up reads few pages. A page of the index of a million words holds all words
with the same first 11 or 12 bits. So every word that differs in these bits lies on another page: 80 pages for the 254
words of a band. In the second index the words are turned, with their last bits in front. There the words that differ in
two of their first bits lie together, on five pages, and the others are on twenty pages of the first index.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Bits of a hash.
BITS = 256
#: Pictures look alike when their hashes differ by at most so many bits (facebook/ThreatExchange, pdq/README).
NEAR = 31
#: Below this quality the picture shows too little for its hash to mean anything (same source).
ENOUGH_QUALITY = 50


@dataclass(frozen=True)
class BitBand:
    """Some neighbouring bits of a hash."""

    first: int  # from 0, the leftmost bit of the hash
    width: int
    #: Bits by which it may differ in a look-up.
    reach: int

    @property
    def is_wide(self) -> bool:
        """Whether it has a second index, of its turned words."""
        return self.reach > 1


def _bands(shapes: Sequence[tuple[int, int]]) -> tuple[BitBand, ...]:
    first, bands = 0, list[BitBand]()
    for width, reach in shapes:
        bands.append(BitBand(first, width, reach))
        first += width
    return tuple(bands)


#: In pairs: the first two, the next two, and so on.
BANDS = _bands([(22, 2)] * 4 + [(17, 1)] * 8 + [(16, 1)] * 2)
#: Bits that a turned word has at its end, and other words of wide bands in front.
FRONT = 12


def partner(number: int) -> int:
    """The number of the band that makes a pair with this one."""
    return number ^ 1


def bound(number: int) -> int:
    """Bits by which the pair of this band may differ."""
    return BANDS[number].reach + BANDS[partner(number)].reach + 1


def word(value: int, band: BitBand) -> int:
    """The bits of a band, as a number."""
    return value >> (BITS - band.first - band.width) & ((1 << band.width) - 1)


def turned(word: str, band: BitBand) -> str:
    """A wide band's word with its last bits in front, in SQL. `word` names a column."""
    behind = band.width - FRONT
    return f"((({word} & {(1 << behind) - 1}) << {FRONT}) | ({word} >> {behind}))"


def distance(one: int, other: int) -> int:
    """Bits that differ."""
    return (one ^ other).bit_count()


def to_hex(value: int) -> str:
    """64 digits, as PDQ hashes are exchanged."""
    return f"{value:064x}"


def from_hex(text: str) -> int:
    """Raise ValueError for a text that is no PDQ hash."""
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError(f"a PDQ hash has {BITS // 4} hexadecimal digits")
    return int(text, 16)


def to_bits(value: int) -> str:
    """As Postgres reads a bit(256)."""
    return f"{value:0{BITS}b}"


class Faces(enum.StrEnum):
    """What the faces of two pictures that look alike have in common."""

    #: Most likely the same pixels.
    SAME = "same"
    #: The pictures look alike but the faces do not: one may be the other with its face swapped.
    OTHER = "other"
    #: The hashes cannot tell, or one picture has no hashed face.
    UNCLEAR = "unclear"


#: Distances of face crops. A face that is saved again stays within the first. A swapped face in a picture that is
#: otherwise near lies far beyond the second: `tests/evidence/test_pdq.py` shows both.
SAME_FACE, OTHER_FACE = 4, 10


@dataclass(frozen=True)
class Likeness:
    """What a picture looks like."""

    frame: int
    #: The hash of the mirrored picture.
    mirrored: int
    #: 0 to 100.
    quality: int
    #: Hashes of the faces, the largest first, without faces that show too little.
    faces: tuple[int, ...] = ()


def compare_faces(ours: Sequence[int], theirs: Sequence[int]) -> tuple[Faces, int | None]:
    """What they have in common, and the distance of the pair that differs most. None when one has no face.

    Faces are compared in order when both pictures have the same number; otherwise only the largest of each.
    """
    if not ours or not theirs:
        return Faces.UNCLEAR, None
    compared = len(ours) if len(ours) == len(theirs) else 1
    worst = max(distance(ours[n], theirs[n]) for n in range(compared))
    if worst <= SAME_FACE:
        return Faces.SAME, worst
    return (Faces.OTHER if worst > OTHER_FACE else Faces.UNCLEAR), worst
