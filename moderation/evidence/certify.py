"""Certified zones: how far the model may be trusted on an installation's own traffic, with a bound that holds.

    "Of cases scored below 0.08, at most 1 % are deepfakes, with 95 % confidence, on traffic like that of these days."

The labels are what people said before they saw the verdict, of a share of cases that was drawn by chance: others are
led by the verdict, or were picked. A case about which nobody can tell counts as an error. A picture counts once,
however often it was flagged.

The threshold is chosen by learn-then-test (Angelopoulos et al. 2021): the thresholds that are tried are fixed before
any label is seen; for each the hypothesis that its zone errs too often is tested by the exact binomial tail, at the
doubt that is allowed divided by how many are tried. Whichever of those that pass is taken, the promise holds. Of a
threshold that passes the upper bound of Clopper and Pearson at the same doubt is at most the error that was promised,
so one number says both. Arithmetic alone: `zones` stores what this finds, and watches it.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.intervals import at_most

#: The thresholds that are tried, as distances from the sure end of the score. Fixed: choosing them by the labels would
#: void the promise.
GRID = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
#: Of the cases drawn to be judged blind, the part that may still be undecided. Those that are hard are decided
#: last: leaving them out would flatter the model.
UNDECIDED_AT_MOST = 0.05


class Zone(enum.StrEnum):
    """An end of the score."""

    #: Scored low: an error is a case that is not bona fide.
    CLEAR = "clear"
    #: Scored high: an error is a case that is no deepfake.
    LIKELY = "likely"


@dataclass(frozen=True)
class Judged:
    """One picture that somebody judged blind."""

    score: float
    #: Whether it is what its zone says. False also where nobody could tell.
    deepfake: bool
    bona_fide: bool

    def errs(self, zone: Zone) -> bool:
        return not (self.bona_fide if zone is Zone.CLEAR else self.deepfake)


@dataclass(frozen=True)
class Promise:
    """What a certificate is to say."""

    zone: Zone = Zone.CLEAR
    #: The part of the zone that may be wrong.
    error: float = 0.01
    #: How sure of that one wants to be.
    confidence: float = 0.95

    @property
    def doubt(self) -> float:
        return 1.0 - self.confidence


@dataclass(frozen=True)
class Tried:
    """What the labels say of one threshold."""

    threshold: float
    n: int
    errors: int
    #: The error is not larger than this, for all that were tried at once.
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


def certify(
    judged: Sequence[Judged], promise: Promise, *, undecided: int = 0, grid: Sequence[float] = GRID
) -> Found:
    """The widest zone whose error is bounded as promised. `undecided`: drawn to be judged, and not judged yet."""
    doubt = promise.doubt / len(grid)
    tried = tuple(_try(judged, promise.zone, reach, doubt) for reach in grid)
    drawn = len(judged) + undecided
    if drawn and undecided / drawn > UNDECIDED_AT_MOST:
        part = f"{undecided} of {drawn} cases that were drawn to be judged blind are not decided yet"
        return Found(promise, None, tried, f"{part}: those that are left are the hard ones")
    passed = [one for one in tried if one.bound <= promise.error]
    if passed:
        return Found(promise, max(passed, key=lambda one: one.n), tried)
    return Found(promise, None, tried, _why(tried, promise, doubt))


def _try(judged: Sequence[Judged], zone: Zone, reach: float, doubt: float) -> Tried:
    threshold = reach if zone is Zone.CLEAR else 1.0 - reach
    chosen = [one for one in judged if inside(zone, one.score, threshold)]
    errors = sum(one.errs(zone) for one in chosen)
    return Tried(threshold, len(chosen), errors, at_most(errors, len(chosen), doubt))


def needed(promise: Promise, *, errors: int = 0, grid: Sequence[float] = GRID) -> int:
    """Labels inside a zone with so many errors among them that suffice for the promise."""
    doubt, low, high = promise.doubt / len(grid), errors, 1 + errors
    while at_most(errors, high, doubt) > promise.error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(errors, middle, doubt) <= promise.error else (middle, high)
    return high


def _why(tried: Sequence[Tried], promise: Promise, doubt: float) -> str:
    nearest = min(tried, key=lambda one: one.bound)
    if nearest.errors == 0:
        return f"too few labels: {nearest.n} in the zone without an error, {needed(promise)} suffice"
    return (
        f"the zone nearest to the promise had {nearest.errors} errors in {nearest.n}:"
        f" at most {nearest.bound:.3f} is sure, {promise.error:g} was wanted"
    )


def holds(n: int, errors: int, promise: Promise) -> bool:
    """Whether what was judged blind inside a certified zone lately still bears its promise out.

    One threshold is looked at, so nothing is divided. Whoever looks often is strict by that and never lenient: a
    certificate that should stand may go, and is asked for anew.
    """
    return at_most(errors, n, promise.doubt) <= promise.error
