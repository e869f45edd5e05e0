"""A forgery of the lab: its pixels, its exact mask, and its changes by region."""

from dataclasses import dataclass

import numpy as np

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch

#: A mean change of this many grey levels counts as full strength.
FULL_CHANGE = 32.0
#: A smaller mean change, in grey levels, is invisible and not named.
LEAST_CHANGE = 4.0


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


def touch(region: Region, kind: Kind, change: float) -> Touch:
    """The fact of a change by so many grey levels on average."""
    return Touch(region, kind, min(change / FULL_CHANGE, 1.0))
