"""Two bundles side by side on pictures that both analysed: where they differ, and what people said. Only arithmetic.

A picture counts once, however often it was flagged. The machine recommends nothing. Every number has its sample size
and its interval.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from moderation.analysis import Label
from moderation.decisions import Outcome
from moderation.intervals import Measure, Paired, Share, mean, quantile

#: Bars in the chart of score shifts, of equal width from −1 to 1. An odd number puts one bar around no shift.
BARS = 21

#: Disagreements that are listed, at most.
LISTED = 50

#: Decisions that show whether a verdict was right.
_SETTLES: Mapping[Outcome, Label] = {Outcome.DEEPFAKE: Label.DEEPFAKE, Outcome.BONA_FIDE: Label.BONA_FIDE}


@dataclass(frozen=True)
class BundleVerdict:
    """What one bundle said of a picture."""

    label: Label
    #: In [0, 1]. None when the model was not asked.
    score: float | None
    #: Whether the score is a probability.
    calibrated: bool
    #: Seconds in the engine. None for an analysis that was reused.
    seconds: float | None


@dataclass(frozen=True)
class Pair:
    """What two bundles said of the same bytes, and what people said of the case."""

    case_id: UUID
    image: bytes  # sha256
    first: BundleVerdict
    second: BundleVerdict
    #: The outcome of the final decision. None while the case is not decided.
    decided: Outcome | None = None
    #: What the same person said before they saw a verdict. None: they saw it at once.
    blind: Outcome | None = None
    #: Which verdict the person saw. Both are False when the case is not decided, or another analysis was shown.
    showed_first: bool = False
    showed_second: bool = False

    @property
    def shift(self) -> float | None:
        """The second score minus the first. None unless both models were asked."""
        if self.first.score is None or self.second.score is None:
            return None
        return self.second.score - self.first.score


@dataclass(frozen=True)
class Shift:
    """How much higher the second's scores are, on `n` pictures that both scored."""

    n: int
    #: Pictures where both scores are probabilities. Elsewhere the scales may differ too.
    calibrated: int
    mean: Measure | None  # None without pictures, like the next three
    fifth: Measure | None
    median: Measure | None
    ninety_fifth: Measure | None
    #: Number of pictures in each of `BARS` bands of equal width from −1 to 1.
    bars: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds in the engine, for `n` pictures that it analysed."""

    n: int
    median: Measure | None
    ninety_fifth: Measure | None


@dataclass(frozen=True)
class Speed:
    first: Timing
    second: Timing
    #: How many times longer the second took, for pictures that both engines analysed, and their number.
    ratio: Measure | None
    of: int


@dataclass(frozen=True)
class Against:
    """The verdicts compared with what people said."""

    #: Share of definite verdicts with which people disagreed.
    first_overturned: Share
    second_overturned: Share
    #: How often only one was right, on pictures where both verdicts were definite.
    right: Paired


@dataclass(frozen=True)
class Comparison:
    """Two bundles on `n` pictures that both analysed."""

    n: int
    #: Pictures with the same label from both.
    agreed: Share
    #: Number of pictures by both labels. All nine pairs are present.
    table: Mapping[tuple[Label, Label], int]
    first_abstained: Share
    second_abstained: Share
    shift: Shift
    speed: Speed
    #: Against final decisions. Most reviewers had seen a verdict, and verdicts influence people.
    decided: Against
    #: Decided pictures where the first's analysis was on show, and those where the second's was.
    showed_first: int
    showed_second: int
    #: Against judgements before any verdict was shown: the unbiased half.
    blind: Against
    #: Number of pictures with two different labels, and the `LISTED` ones with the largest shift.
    disagreed: int
    disagreements: tuple[Pair, ...]


def compare(pairs: Iterable[Pair]) -> Comparison:
    """Compare on these pairs. Of pairs with the same bytes only one counts, if possible a decided one."""
    pictures = _one_per_picture(pairs)
    n = len(pictures)
    table = Counter((pair.first.label, pair.second.label) for pair in pictures)
    differing = [pair for pair in pictures if pair.first.label is not pair.second.label]
    return Comparison(
        n=n,
        agreed=Share(n - len(differing), n),
        table={(first, second): table[first, second] for first in Label for second in Label},
        first_abstained=Share(sum(pair.first.label is Label.UNDETERMINED for pair in pictures), n),
        second_abstained=Share(sum(pair.second.label is Label.UNDETERMINED for pair in pictures), n),
        shift=_shift(pictures),
        speed=_speed(pictures),
        decided=_against(pictures, lambda pair: pair.decided),
        showed_first=sum(pair.decided is not None and pair.showed_first for pair in pictures),
        showed_second=sum(pair.decided is not None and pair.showed_second for pair in pictures),
        blind=_against(pictures, lambda pair: pair.blind),
        disagreed=len(differing),
        disagreements=tuple(sorted(differing, key=_size, reverse=True)[:LISTED]),
    )


def _one_per_picture(pairs: Iterable[Pair]) -> list[Pair]:
    found: dict[bytes, Pair] = {}
    for pair in pairs:
        known = found.get(pair.image)
        if known is None or (known.decided is None and pair.decided is not None):
            found[pair.image] = pair
    return list(found.values())


def _size(pair: Pair) -> float:
    """How far the scores differ. A pair with only one score comes last."""
    return -1.0 if pair.shift is None else abs(pair.shift)


def _shift(pairs: Sequence[Pair]) -> Shift:
    scored = [(shift, pair) for pair in pairs if (shift := pair.shift) is not None]
    ordered = sorted(shift for shift, _ in scored)
    bands = Counter(min(BARS - 1, math.floor((shift + 1) / 2 * BARS)) for shift in ordered)
    return Shift(
        n=len(ordered),
        calibrated=sum(pair.first.calibrated and pair.second.calibrated for _, pair in scored),
        mean=mean(ordered),
        fifth=quantile(ordered, 0.05),
        median=quantile(ordered, 0.5),
        ninety_fifth=quantile(ordered, 0.95),
        bars=tuple(bands[band] for band in range(BARS)),
    )


def _speed(pairs: Sequence[Pair]) -> Speed:
    ratios = sorted(
        pair.second.seconds / pair.first.seconds
        for pair in pairs
        if pair.first.seconds and pair.second.seconds is not None
    )
    return Speed(
        first=_timing(pair.first.seconds for pair in pairs),
        second=_timing(pair.second.seconds for pair in pairs),
        ratio=quantile(ratios, 0.5),
        of=len(ratios),
    )


def _timing(seconds: Iterable[float | None]) -> Timing:
    ordered = sorted(taken for taken in seconds if taken is not None)
    return Timing(len(ordered), quantile(ordered, 0.5), quantile(ordered, 0.95))


def _against(pairs: Sequence[Pair], said: Callable[[Pair], Outcome | None]) -> Against:
    settled = [
        (pair.first.label, pair.second.label, _SETTLES[outcome])
        for pair in pairs
        if (outcome := said(pair)) is not None and outcome in _SETTLES
    ]
    both = [row for row in settled if Label.UNDETERMINED not in row]
    return Against(
        first_overturned=_overturned((first, truth) for first, _, truth in settled),
        second_overturned=_overturned((second, truth) for _, second, truth in settled),
        right=Paired(
            n=len(both),
            only_first=sum(first is truth and second is not truth for first, second, truth in both),
            only_second=sum(second is truth and first is not truth for first, second, truth in both),
        ),
    )


def _overturned(verdicts: Iterable[tuple[Label, Label]]) -> Share:
    said = [(label, truth) for label, truth in verdicts if label is not Label.UNDETERMINED]
    return Share(sum(label is not truth for label, truth in said), len(said))
