"""Statistics of a sample with their intervals: shares, quantiles, means and differences.

Only the standard library is used: the console and the bench of the model share this module.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

#: 95 % of a normal distribution lies within so many standard deviations: for 95 % intervals.
Z95 = 1.959964

#: From this sample size on, a mean counts as normally distributed. Smaller samples get no interval.
ENOUGH_FOR_A_MEAN = 30


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent observations, at least one (Wilson 1927)."""
    centre = (count + Z95**2 / 2) / (of + Z95**2)
    reach = Z95 * math.sqrt(count * (of - count) / of + Z95**2 / 4) / (of + Z95**2)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def at_most(count: int, of: int, doubt: float) -> float:
    """An upper bound of the true share, wrong with a chance of at most `doubt` (Clopper and Pearson 1934).

    If the true share were larger, we would see so few with a chance of at most `doubt`. Without observations it is 1.
    """
    if of == 0 or count >= of:
        return 1.0
    low, high = count / of, 1.0
    for _ in range(60):  # halved until a float cannot tell the two apart
        middle = (low + high) / 2
        low, high = (middle, high) if _chance_of_so_few(count, of, middle) > doubt else (low, middle)
    return high


def _chance_of_so_few(count: int, of: int, share: float) -> float:
    """The chance to see at most `count` of `of` with this true share."""
    if share >= 1:
        return 0.0
    logs = [
        math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
        + k * math.log(share) + (of - k) * math.log1p(-share)
        for k in range(count + 1)
    ] if share > 0 else [0.0]  # fmt: skip
    top = max(logs)
    return min(1.0, math.exp(top) * math.fsum(math.exp(one - top) for one in logs))


@dataclass(frozen=True)
class Share:
    """A count out of a total, with Wilson's 95 % interval. Share and interval are None for a total of 0."""

    count: int
    of: int

    @property
    def share(self) -> float | None:
        return self.count / self.of if self.of else None

    @property
    def low(self) -> float | None:
        return wilson(self.count, self.of)[0] if self.of else None

    @property
    def high(self) -> float | None:
        return wilson(self.count, self.of)[1] if self.of else None


@dataclass(frozen=True)
class Named:
    """A share of something by name: a technique, a bundle, a code, a region."""

    name: str
    share: Share


@dataclass(frozen=True)
class Measure:
    """A number from a sample, with its 95 % interval. An end is None when the sample is too small."""

    value: float
    low: float | None
    high: float | None


def mean(values: Sequence[float]) -> Measure | None:
    """The mean with a normal interval. None without values; no interval below `ENOUGH_FOR_A_MEAN` values."""
    if not values:
        return None
    centre = fmean(values)
    if len(values) < ENOUGH_FOR_A_MEAN:
        return Measure(centre, None, None)
    reach = Z95 * stdev(values, centre) / math.sqrt(len(values))
    return Measure(centre, centre - reach, centre + reach)


def quantile(ordered: Sequence[float], at: float) -> Measure | None:
    """The quantile at `at` in (0, 1) of these values, sorted upwards. None without values.

    It is interpolated between two values (Hyndman & Fan 1996, type 7). The ends of the interval are values of the
    sample, by the binomial distribution of their rank. This holds for any distribution (Conover 1999, 3.2).
    """
    if not ordered:
        return None
    n = len(ordered)
    place = at * (n - 1)
    below = math.floor(place)
    above = min(below + 1, n - 1)
    value = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    reach = Z95 * math.sqrt(n * at * (1 - at))
    low, high = math.ceil(n * at - reach), math.ceil(n * at + reach)  # ranks, from 1
    return Measure(value, ordered[low - 1] if low >= 1 else None, ordered[high - 1] if high <= n else None)


@dataclass(frozen=True)
class Paired:
    """Two ways to judge the same `n` things: how often only the first was right, and how often only the second."""

    n: int
    only_first: int
    only_second: int

    @property
    def difference(self) -> Measure | None:
        """The second's share of right answers minus the first's, in [−1, 1]. None without things.

        The interval is by Bonett and Price (2012) and holds for small samples too.
        """
        if not self.n:
            return None
        first, second = (self.only_first + 1) / (self.n + 2), (self.only_second + 1) / (self.n + 2)
        gap = second - first
        reach = Z95 * math.sqrt((first + second - gap**2) / (self.n + 2))
        return Measure(
            (self.only_second - self.only_first) / self.n, max(-1.0, gap - reach), min(1.0, gap + reach)
        )

    @property
    def exact_p(self) -> float | None:
        """McNemar's test (1947), two-sided and exact: the chance of so uneven a split when neither is better.

        None when they never differed.
        """
        if not self._differed:
            return None
        return min(1.0, 2 * self._tail / 2**self._differed)

    @property
    def mid_p(self) -> float | None:
        """The same with half the weight of the observed split: the exact test is too strict (Fagerland et al. 2013)."""
        if not self._differed:
            return None
        return (2 * self._tail - math.comb(self._differed, self._fewer)) / 2**self._differed

    @property
    def _differed(self) -> int:
        return self.only_first + self.only_second

    @property
    def _fewer(self) -> int:
        return min(self.only_first, self.only_second)

    @property
    def _tail(self) -> int:
        """How many of the 2^n ways to split n differences give the smaller side no more than it has."""
        ways, total = 1, 1
        for k in range(self._fewer):
            ways = ways * (self._differed - k) // (k + 1)
            total += ways
        return total
