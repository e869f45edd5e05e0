"""A forgery of the lab: its pixels, its exact mask, and its changes by region."""

import enum
from dataclasses import dataclass

import numpy as np

from moderation.analysis import Region, Technique

#: Random numbers come from the caller, so that equal seeds give equal forgeries.
Rng = np.random.Generator

#: A mean change of this many grey levels counts as full strength.
FULL_CHANGE = 32.0
#: A smaller mean change, in grey levels, is invisible and not named.
LEAST_CHANGE = 4.0


class Kind(enum.StrEnum):
    """A region's visible change."""

    #: The border between two pictures runs through it.
    SEAM = "seam"
    #: Its colours come from another light or another skin.
    COLOUR = "colour"
    #: It is softer than the picture around it.
    SOFTER = "softer"
    #: It is sharper than the picture around it.
    SHARPER = "sharper"
    #: It comes from another face.
    REPLACED = "replaced"
    #: Its texture is removed, as by beauty filters.
    SMOOTHED = "smoothed"
    #: Its shape is bent.
    WARPED = "warped"
    #: It shows the regular pattern of a generator's up-sampling.
    PATTERN = "pattern"


@dataclass(frozen=True)
class Touch:
    """One changed region, and the kind of change."""

    region: Region
    kind: Kind
    #: In [0, 1]: the mean change of its pixels. 1 is `FULL_CHANGE` grey levels or more.
    strength: float


@dataclass(frozen=True, eq=False)
class Forgery:
    """A forged face and its facts. It imitates a real forgery; its origin says that it comes from the lab."""

    pixels: np.ndarray  # (S, S, 3) uint8 RGB
    #: The foreign share of each pixel, in [0, 1]. 0: unchanged.
    mask: np.ndarray  # (S, S) float32
    technique: Technique
    facts: tuple[Touch, ...]
    #: The recipe: "self_blend", "other_face", "eyes_replaced" …
    recipe: str
