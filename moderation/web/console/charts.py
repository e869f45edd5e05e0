"""The plots of the insight page as numbers for SVG: places of bars, dots and whiskers. The tables show the same."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from moderation.intervals import Named, Share
from moderation.reports.insight import Band, Day

#: Size of the plots' drawing areas, in units of their viewBox.
WIDTH, HEIGHT = 1100.0, 140.0
_LEFT, _TOP, _BOTTOM = 30.0, 8.0, 18.0


@dataclass(frozen=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    #: The series: 1 or 2.
    series: int


@dataclass(frozen=True)
class Tick:
    at: float
    words: str


@dataclass(frozen=True)
class Bars:
    """Bars, with labels below and levels at the left."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    levels: tuple[Tick, ...]


@dataclass(frozen=True)
class Whisker:
    """A share with its interval on one line."""

    name: str
    share: Share
    y: float
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Dot:
    """A band of scores against what people decided."""

    x: float
    y: float
    low: float
    high: float


def volume(days: Sequence[Day], since: date, until: date) -> Bars:
    """Cases opened and decided on each day, side by side, also days without any."""
    counted = {day.day: day for day in days}
    span = [since + timedelta(days=n) for n in range((until - since).days + 1)]
    most = _round_up(max([1, *(max(day.opened, day.decided) for day in days)]))
    step = (WIDTH - _LEFT) / len(span)
    wide = min(14.0, step * 0.4)
    bars: list[Bar] = []
    for place, day in enumerate(span):
        found = counted.get(day)
        left = _LEFT + place * step + (step - 2 * wide) / 2
        bars.append(_bar(left, wide, found.opened / most if found else 0, 1))
        bars.append(_bar(left + wide, wide, found.decided / most if found else 0, 2))
    every = max(1, len(span) // 10)
    ticks = tuple(
        Tick(round(_LEFT + (place + 0.5) * step, 1), f"{day:%d %b}")
        for place, day in enumerate(span)
        if place % every == 0
    )
    return Bars(tuple(bars), ticks, (Tick(HEIGHT - _BOTTOM, "0"), Tick(_TOP, str(most))))


def shifts(counts: Sequence[int]) -> Bars:
    """Numbers of pictures in bands of equal width from −1 to 1. Pictures in the middle band did not shift."""
    most = _round_up(max([1, *counts]))
    step = (WIDTH - _LEFT) / len(counts)
    middle = len(counts) // 2
    bars = tuple(
        _bar(_LEFT + (place + 0.1) * step, 0.8 * step, count / most, 2 if place == middle else 1)
        for place, count in enumerate(counts)
    )
    return Bars(bars, (), (Tick(HEIGHT - _BOTTOM, "0"), Tick(_TOP, str(most))))


def _bar(left: float, width: float, part: float, series: int) -> Bar:
    """A bar of this part of the full height."""
    tall = part * (HEIGHT - _TOP - _BOTTOM)
    return Bar(round(left, 1), round(HEIGHT - _BOTTOM - tall, 1), round(width, 1), round(tall, 1), series)


def shift_bounds(band: int, of: int) -> tuple[float, float]:
    """The limits of one of `of` bands from −1 to 1."""
    return 2 * band / of - 1, 2 * (band + 1) / of - 1


def whiskers(named: Sequence[Named]) -> tuple[Whisker, ...]:
    """Shares from 0 to 1 across a width of 100, one below the other, 22 apart."""
    return tuple(
        Whisker(
            one.name,
            one.share,
            11.0 + 22.0 * place,
            100 * (one.share.share or 0.0),
            100 * (one.share.low or 0.0),
            100 * (one.share.high or 0.0),
        )
        for place, one in enumerate(named)
    )


def drift(bands: Sequence[Band], *, blind: bool) -> tuple[Dot, ...]:
    """Mean score to the right, share of deepfakes upwards, both 0 to 100. Calibrated scores lie on the diagonal."""
    shares = [(band.mean_score, band.blind if blind else band.decided) for band in bands]
    return tuple(
        Dot(100 * score, 100 - 100 * of.share, 100 - 100 * (of.low or 0.0), 100 - 100 * (of.high or 0.0))
        for score, of in shares
        if of.share is not None
    )


def _round_up(count: int) -> int:
    """The next round number: 1, 2 or 5 with zeros."""
    rounds = (digit * 10**zeros for zeros in itertools.count() for digit in (1, 2, 5))
    return next(round_number for round_number in rounds if round_number >= count)
