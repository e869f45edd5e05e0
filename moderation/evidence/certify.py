"""Certified zones: how far the model can be trusted on an installation's own traffic, with a valid bound.

    "Of cases scored below 0.08, at most 1 % are deepfakes, with 95 % confidence, on traffic like that of these days."

The labels are judgements before the verdict was shown, for a random share of cases. Other judgements are influenced by
the verdict, or their cases were picked. A case about which nobody can tell counts as an error. A picture counts once,
however often it was flagged.

The threshold is chosen by learn-then-test (Angelopoulos et al. 2021). The thresholds to try are fixed before any label
is seen. For each, the exact binomial tail tests the hypothesis that its zone errs too often, at the allowed doubt
divided by the number of thresholds. The promise holds for any threshold that passes. For such a threshold the upper
bound of Clopper and Pearson at the same doubt is at most the promised error, so one number is enough. This module only
computes: `zones` stores its findings and watches them.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.intervals import at_most

#: The thresholds to try, as distances from the certain end of the score. They are fixed: if the labels chose them, the
#: promise would not hold.
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
#: Share of the cases drawn for blind judgement that may still be undecided. Hard cases are decided last: without them
#: the model would look too good.
UNDECIDED_AT_MOST = 0.05


class Zone(enum.StrEnum):
    """An end of the score."""

    #: Low scores. An error is a case that is not bona fide.
    CLEAR = "clear"
    #: High scores. An error is a case that is no deepfake.
    LIKELY = "likely"


@dataclass(frozen=True)
class BlindSample:
    """One picture that a person judged blind."""

    score: float
    #: Whether it was judged a deepfake. False also when nobody could tell.
    deepfake: bool
    bona_fide: bool

    def errs(self, zone: Zone) -> bool:
        return not (self.bona_fide if zone is Zone.CLEAR else self.deepfake)


@dataclass(frozen=True)
class Promise:
    """What a certificate promises."""

    zone: Zone = Zone.CLEAR
    #: Share of the zone that may be wrong.
    error: float = 0.01
    #: Required confidence.
    confidence: float = 0.95

    @property
    def doubt(self) -> float:
        return 1.0 - self.confidence


@dataclass(frozen=True)
class Tried:
    """What the labels say about one threshold."""

    threshold: float
    n: int
    errors: int
    #: Upper bound of the error, valid for all tried thresholds together.
    bound: float


@dataclass(frozen=True)
class Found:
    """The outcome of a certification."""

    promise: Promise
    #: The widest zone that keeps the promise. None: none does, and `refused` says why.
    certified: Tried | None
    tried: tuple[Tried, ...]
    refused: str = ""


def inside(zone: Zone, score: float, threshold: float) -> bool:
    """Whether a score is in the zone. A threshold is a score: 0.08 for CLEAR, 0.92 for LIKELY."""
    return score < threshold if zone is Zone.CLEAR else score > threshold


def certify(judged: Sequence[BlindSample], promise: Promise, *, undecided: int = 0) -> Found:
    """The widest zone that keeps the promise. `undecided`: cases drawn for blind judgement and not judged yet."""
    doubt = promise.doubt / len(GRID)
    tried = tuple(_try(judged, promise.zone, reach, doubt) for reach in GRID)
    drawn = len(judged) + undecided
    if drawn and undecided / drawn > UNDECIDED_AT_MOST:
        part = f"{undecided} of {drawn} cases that were drawn to be judged blind are not decided yet"
        return Found(promise, None, tried, f"{part}: those that are left are the hard ones")
    passed = [zone for zone in tried if zone.bound <= promise.error]
    if passed:
        return Found(promise, max(passed, key=lambda zone: zone.n), tried)
    return Found(promise, None, tried, _why(tried, promise, doubt))


def _try(judged: Sequence[BlindSample], zone: Zone, reach: float, doubt: float) -> Tried:
    threshold = reach if zone is Zone.CLEAR else 1.0 - reach
    within = [sample for sample in judged if inside(zone, sample.score, threshold)]
    errors = sum(sample.errs(zone) for sample in within)
    return Tried(threshold, len(within), errors, at_most(errors, len(within), doubt))


def needed(promise: Promise) -> int:
    """The number of labels without an error that is enough for the promise."""
    doubt, low, high = promise.doubt / len(GRID), 0, 1
    while at_most(0, high, doubt) > promise.error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(0, middle, doubt) <= promise.error else (middle, high)
    return high


def _why(tried: Sequence[Tried], promise: Promise, doubt: float) -> str:
    nearest = min(tried, key=lambda zone: zone.bound)
    if nearest.errors == 0:
        return f"too few labels: {nearest.n} in the zone without an error, {needed(promise)} suffice"
    return (
        f"the zone nearest to the promise had {nearest.errors} errors in {nearest.n}:"
        f" at most {nearest.bound:.3f} is sure, {promise.error:g} was wanted"
    )


def holds(n: int, errors: int, promise: Promise) -> bool:
    """Whether recent blind judgements inside a certified zone still agree with its promise.

    There is one threshold, so the doubt is not divided. Frequent checks make this stricter, never more lenient: a good
    certificate may be revoked, and an admin asks for a new one.
    """
    return at_most(errors, n, promise.doubt) <= promise.error
