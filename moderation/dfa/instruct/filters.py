"""What does not get into DFA-Instruct: forgeries nobody can see, words the mask does not bear out, leaks, repeats.

Whatever is left out is counted by its reason, and the counts are part of the data card.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from moderation.analysis import Region
from moderation.dfa.instruct.forgery.facts import Forgery, Touch
from moderation.dfa.instruct.forgery.masks import PARTS, Geometry, part_mask

#: Mean change in grey levels, within the mask or around it, below which a forgery is one in name only.
LEAST_VISIBLE = 1.5
#: Share of a named region that the mask must cover.
LEAST_COVERED = 0.1
#: Words that tell of a second picture, which the model is never shown.
LEAKS = ("second image", "other image", "original", "difference", "mask", "compared to")


def visible(forgery: Forgery, before: np.ndarray) -> bool:
    """Whether anything can be seen of it: within the mask, or around it where the surroundings were changed."""
    change = np.abs(forgery.pixels.astype(np.float32) - before).mean(axis=2)
    return max(_mean(change, forgery.mask), _mean(change, 1 - forgery.mask)) >= LEAST_VISIBLE


def _mean(values: np.ndarray, weight: np.ndarray) -> float:
    return float((values * weight).sum()) / max(float(weight.sum()), 1.0)


def supported(forgery: Forgery, face: Geometry) -> tuple[Touch, ...]:
    """The facts whose region the mask reaches. Regions without an outline of their own are taken at their word."""
    return tuple(touch for touch in forgery.facts if _covered(touch.region, forgery.mask, face))


def _covered(region: Region, mask: np.ndarray, face: Geometry) -> bool:
    if region not in PARTS:
        return True
    step = 4
    small = Geometry(size=mask[::step, ::step].shape[0], frame=face.frame / step)
    part = part_mask(small, region)
    return float((part * mask[::step, ::step]).sum()) >= LEAST_COVERED * float(part.sum())


def leaks(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in LEAKS)


def contradicts(*, deepfake: bool, description: str, none: str) -> bool:
    """A deepfake without artifacts, or artifacts on a bona fide face."""
    return deepfake == (description == none)


class Sieve:
    """Counts what is left out, and knows repeats."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: set[str] = set()

    def repeated(self, pictures: Sequence[bytes]) -> bool:
        """Whether any of these files came before; they are remembered."""
        digests = [hashlib.sha256(picture).hexdigest() for picture in pictures]
        found = any(digest in self._seen for digest in digests)
        self._seen.update(digests)
        return found
