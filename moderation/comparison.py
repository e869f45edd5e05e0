"""Two bundles side by side, on pictures that both analysed: where they differ, and what people said of it. Arithmetic.

A picture counts once, however often it was flagged. The machine recommends nothing: every number comes with how many
pictures it is of, and with its interval.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from moderation.analysis import Label
from moderation.decisions import Outcome
from moderation.intervals import Measure, Paired, Share, mean, quantile

#: Bars of the chart of score shifts, of equal width from −1 to 1: an odd number, so that one lies around no shift.
BARS = 21

#: Disagreements that are listed.
LISTED = 50

#: What a decision has to say to settle whether a verdict was right.
_SETTLES: Mapping[Outcome, Label] = {
    Outcome.DEEPFAKE: Label.DEEPFAKE,
    Outcome.BONA_FIDE: Label.BONA_FIDE,
}


@dataclass(frozen=True)
class Said:
    """What one bundle said of a picture."""

    label: Label
    #: In [0, 1]. None when the model was not asked.
    score: float | None
    #: Whether the score is a probability.
    calibrated: bool
    #: Spent in the engine. None for an analysis that repeats one of the same bytes.
    seconds: float | None


@dataclass(frozen=True)
class Pair:
    """What two bundles said of the same bytes, and what people said of the case."""

    case_id: UUID
    image: bytes  # sha256
    first: Said
    second: Said
    #: What stands and can no longer be undone. None while the case is not decided.
    decided: Outcome | None = None
    #: What the same person said before a verdict was shown. None when it was shown at once.
    blind: Outcome | None = None
    #: Which of the two the person saw. Both are False when the case is not decided, or another analysis was shown.
    showed_first: bool = False
    showed_second: bool = False

    @property
    def shift(self) -> float | None:
        """The second's score less the first's. None unless both were asked."""
        if self.first.score is None or self.second.score is None:
            return None
        return self.second.score - self.first.score


@dataclass(frozen=True)
class Shift:
    """How much higher the second's scores are, over the `n` pictures that both scored."""

    n: int
    #: Of those, where both scores are probabilities: elsewhere a difference is one of scales too.
    calibrated: int
    mean: Measure | None  # None of nothing, as the next three
    fifth: Measure | None
    median: Measure | None
    ninety_fifth: Measure | None
    #: Pictures in each of `BARS` bands of equal width from −1 to 1.
    bars: tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds in the engine, of the `n` pictures that it was busy with."""

    n: int
    median: Measure | None
    ninety_fifth: Measure | None


@dataclass(frozen=True)
class Speed:
    first: Timing
    second: Timing
    #: Of the pictures that both engines were busy with: how often longer the second took, and of how many.
    ratio: Measure | None
    of: int


@dataclass(frozen=True)
class Against:
    """The verdicts held against what people said."""

    #: Of verdicts that said something, those that people said otherwise about.
    first_overturned: Share
    second_overturned: Share
    #: Of pictures that both said something about: how often only the one was right.
    right: Paired


@dataclass(frozen=True)
class Comparison:
    """Two bundles on `n` pictures that both analysed."""

    n: int
    #: The same label.
    agreed: Share
    #: Pictures by what the first and what the second said; all nine are there.
    table: Mapping[tuple[Label, Label], int]
    first_abstained: Share
    second_abstained: Share
    shift: Shift
    speed: Speed
    #: Decisions that stand. Whoever decided had mostly seen a verdict, and verdicts lead people.
    decided: Against
    #: Decided pictures of which the first's, and the second's, analysis was on show.
    showed_first: int
    showed_second: int
    #: What was said before any verdict was shown: the honest half of it.
    blind: Against
    #: How many got two labels, and the first `LISTED` of those by the size of the shift.
    disagreed: int
    disagreements: tuple[Pair, ...]


def compare(pairs: Iterable[Pair]) -> Comparison:
    """Compare on these pairs. Of several with the same bytes one counts: a decided one if there is any."""
    chosen = _one_per_picture(pairs)
    n = len(chosen)
    table = Counter((pair.first.label, pair.second.label) for pair in chosen)
    differing = [pair for pair in chosen if pair.first.label is not pair.second.label]
    return Comparison(
        n=n,
        agreed=Share(n - len(differing), n),
        table={(first, second): table[first, second] for first in Label for second in Label},
        first_abstained=Share(sum(pair.first.label is Label.UNDETERMINED for pair in chosen), n),
        second_abstained=Share(sum(pair.second.label is Label.UNDETERMINED for pair in chosen), n),
        shift=_shift(chosen),
        speed=_speed(chosen),
        decided=_against(chosen, lambda pair: pair.decided),
        showed_first=sum(pair.decided is not None and pair.showed_first for pair in chosen),
        showed_second=sum(pair.decided is not None and pair.showed_second for pair in chosen),
        blind=_against(chosen, lambda pair: pair.blind),
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
    """By how much they differ; a score against none comes last."""
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
