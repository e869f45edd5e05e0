"""Filters of DFA-Instruct: invisible forgeries, words that the mask does not support, leaks, repeats.

Everything left out is counted by its reason. The counts are part of the data card.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from moderation.analysis import Region
from moderation.dfa.gpt.grounding.facts import Touch
from moderation.dfa.instruct.forgery.forged import Forgery
from moderation.dfa.instruct.forgery.masks import PARTS, Geometry, change_between, mean_within, part_mask

#: Least mean change in grey levels, within the mask or around it. Below it a forgery is invisible.
LEAST_VISIBLE = 1.5
#: Share of a named region that the mask must cover.
LEAST_COVERED = 0.1
#: Words about a second picture, which the model is never shown.
LEAKS = ("second image", "other image", "original", "difference", "mask", "compared to")
#: Most words of one sentence about one region.
MOST_WORDS = 30
#: Most pictures for which an annotator may use the same sentence. A sentence that fits all pictures describes none.
MOST_SAID = 100
#: Sentences that contradict the label.
DENIALS = re.compile(
    r"\b(no|without|free of)\s+(\w+\s+)?(artifacts?|traces?|signs?|evidence)\b"
    r"|\b(looks?|appears?|seems?|is|are)\s+((?!not\b)\w+\s+)?(natural|normal|authentic|genuine|unaltered|consistent)\b",
    re.IGNORECASE,
)
#: Words that say who or what a person is.
PERSONAL = re.compile(
    r"\b(m[ae]n|wom[ae]n|boys?|girls?|males?|females?|ethnic\w*|race|racial|asian|african|caucasian|european|latin[oa]"
    r"|hispanic|indian|arab|jewish|muslim|celebrity|actor|actress|politician|president)\b",
    re.IGNORECASE,
)


def visible(forgery: Forgery, before: np.ndarray) -> bool:
    """True when the forgery shows, within the mask or around it (the surroundings may be changed instead)."""
    change = change_between(before, forgery.pixels)
    return max(mean_within(change, mask) for mask in (forgery.mask, 1 - forgery.mask)) >= LEAST_VISIBLE


def supported(forgery: Forgery, face: Geometry) -> tuple[Touch, ...]:
    """The facts whose region the mask covers. Regions without an outline of their own always count as covered."""
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
    """True for a deepfake without artifacts, or a bona fide face with artifacts."""
    return deepfake == (description == none)


def sieved(
    artifacts: Sequence[tuple[str, str]], allowed: Collection[Region]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The (region, sentence) pairs of an annotator that may be taught, and a reason for each of the others."""
    kept: dict[str, str] = {}
    reasons: list[str] = []
    for region, written in artifacts:
        text = " ".join(written.split())
        reason = _refused(region, text, allowed, kept)
        if reason is None:
            kept[region] = text
        else:
            reasons.append(reason)
    return tuple(kept.items()), tuple(reasons)


def _refused(region: str, text: str, allowed: Collection[Region], kept: Collection[str]) -> str | None:
    """Why a sentence is not taught. None when it is."""
    if region not in {allowed_region.value for allowed_region in allowed}:
        return "region outside the mask"
    if region in kept:
        return "region named twice"
    if not text or "*" in text:
        return "no plain sentence"
    if len(text.split()) > MOST_WORDS:
        return "too long"
    if leaks(text):
        return "tells of another picture"
    if DENIALS.search(text):
        return "contradicts the label"
    if PERSONAL.search(text):
        return "says who the person is"
    return None


class Sieve:
    """Counts everything left out, and detects repeats."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._said: Counter[str] = Counter()

    def repeated(self, pictures: Sequence[bytes]) -> bool:
        """True when any of these files came before. Remembers them."""
        digests = [hashlib.sha256(picture).hexdigest() for picture in pictures]
        found = any(digest in self._seen for digest in digests)
        self._seen.update(digests)
        return found

    def worn(self, sentence: str) -> bool:
        """True when this sentence already describes too many pictures. Counts it."""
        self._said[sentence] += 1
        return self._said[sentence] > MOST_SAID
