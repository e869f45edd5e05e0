"""What a forgery of the lab is: its pixels, its exact mask, and what was done to it, region by region."""

import enum
from dataclasses import dataclass

import numpy as np

from moderation.analysis import Region, Technique

#: Random numbers come from the caller, so that a seed gives the same forgeries again.
Rng = np.random.Generator

#: A mean change of this many grey levels counts as full strength.
FULL_CHANGE = 32.0
#: Below this many grey levels nobody sees a change, and nothing is said of it.
LEAST_CHANGE = 4.0


class Kind(enum.StrEnum):
    """What was done to a region, as far as the picture can show it."""

    #: The border between two pictures runs through it.
    SEAM = "seam"
    #: Its colours come from another light or another skin.
    COLOUR = "colour"
    #: It is softer than the picture around it.
    SOFTER = "softer"
    #: It is crisper than the picture around it.
    SHARPER = "sharper"
    #: It was brought from another face.
    REPLACED = "replaced"
    #: Its texture was taken away, as beauty filters do.
    SMOOTHED = "smoothed"
    #: Its shape was bent.
    WARPED = "warped"
    #: It carries the regular pattern of a generator's up-sampling.
    PATTERN = "pattern"


@dataclass(frozen=True)
class Touch:
    """One region that was changed, in one way."""

    region: Region
    kind: Kind
    #: In [0, 1]: the change of pixels there, 1 for a mean of `FULL_CHANGE` grey levels or more.
    strength: float


@dataclass(frozen=True, eq=False)
class Forgery:
    """A forged face beside the facts of its making. These are stand-ins for real forgeries, and say so."""

    pixels: np.ndarray  # (S, S, 3) uint8 RGB
    #: How much of each pixel is foreign, in [0, 1]; 0 where the picture was left alone.
    mask: np.ndarray  # (S, S) float32
    technique: Technique
    facts: tuple[Touch, ...]
    #: The recipe: "self_blend", "other_face", "eyes_replaced" … What leaving out one kind leaves out.
    recipe: str
