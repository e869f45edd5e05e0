"""When two pictures look alike: PDQ hashes of 256 bits, and the bands by which an index finds all that are near.

A likeness is a reason to look at two pictures side by side and nothing else: most simple face swaps are alike to the
picture that they were made of. No verdict and no decision goes from one picture to another by it.

The index. Two hashes at a distance of `NEAR` or less must agree almost wholly somewhere. The 256 bits are cut into
bands, and two neighbouring bands make a pair. A band may differ by `reach` bits, a pair by one more than its two bands
together, `bound`. Suppose that every pair differs by more than its bound: then the hashes differ by at least the sum of
all (bound + 1), which is 32. So in hashes that are near some pair stays within its bound, and there one of its two
bands stays within its reach, or the pair would differ by (reach + 1) + (reach + 1) = bound + 1. Whoever looks up every
word that lies within reach of each band, and of what is found keeps the pairs within bound, misses nothing. This is
multi-index hashing (Norouzi, Punjani and Fleet 2014) with uneven reaches (Qin et al. 2018): 1,194 words are looked up,
and of a million hashes about 1,900 entries are met, of which some fifteen are compared whole.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Bits of a hash.
BITS = 256
#: Hashes that differ by so many bits or fewer are of pictures that look alike (facebook/ThreatExchange, pdq/README).
NEAR = 31
#: A picture with less has too little in it for its hash to mean something (the same).
ENOUGH_QUALITY = 50


@dataclass(frozen=True)
class Band:
    """Some bits of a hash that stand beside each other."""

    first: int  # from 0, the leftmost bit of the hash
    width: int
    #: Bits by which it may differ and is still looked up.
    reach: int


def _bands(shapes: Sequence[tuple[int, int]]) -> tuple[Band, ...]:
    first, bands = 0, list[Band]()
    for width, reach in shapes:
        bands.append(Band(first, width, reach))
        first += width
    return tuple(bands)


#: In pairs: the first two, the next two, and so on.
BANDS = _bands([(22, 2)] * 4 + [(17, 1)] * 8 + [(16, 1)] * 2)


def partner(number: int) -> int:
    """The number of the band that makes a pair with this one."""
    return number ^ 1


def bound(number: int) -> int:
    """Bits by which the pair of this band may differ."""
    return BANDS[number].reach + BANDS[partner(number)].reach + 1


def word(value: int, band: Band) -> int:
    """The bits of a band, as a number."""
    return value >> (BITS - band.first - band.width) & ((1 << band.width) - 1)


def distance(one: int, other: int) -> int:
    """Bits that differ."""
    return (one ^ other).bit_count()


def to_hex(value: int) -> str:
    """64 digits, as PDQ hashes are exchanged."""
    return f"{value:064x}"


def from_hex(text: str) -> int:
    """Raise ValueError for what is no PDQ hash."""
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
    #: The pictures look alike and the faces do not: one may be the other with its face swapped.
    OTHER = "other"
    #: Too close to tell by a hash, or one has no face that was hashed.
    UNCLEAR = "unclear"


#: Distances of face crops. A face that is saved again stays within the first; one that another was laid over, in a
#: picture that is near as a whole, is far beyond the second: `tests/evidence/test_pdq.py` shows both.
SAME_FACE, OTHER_FACE = 4, 10


@dataclass(frozen=True)
class Likeness:
    """What a picture looks like."""

    frame: int
    #: The hash of the same picture as a mirror shows it.
    mirrored: int
    #: 0 to 100.
    quality: int
    #: Of the faces that were looked at, the largest first. Without those that have too little in them.
    faces: tuple[int, ...] = ()


def compare_faces(ours: Sequence[int], theirs: Sequence[int]) -> tuple[Faces, int | None]:
    """What they have in common, and the distance of the two that differ most. None when one has no face.

    Faces are compared in their order where both pictures have as many; else only the largest of each.
    """
    if not ours or not theirs:
        return Faces.UNCLEAR, None
    compared = len(ours) if len(ours) == len(theirs) else 1
    worst = max(distance(ours[n], theirs[n]) for n in range(compared))
    if worst <= SAME_FACE:
        return Faces.SAME, worst
    return (Faces.OTHER if worst > OTHER_FACE else Faces.UNCLEAR), worst
