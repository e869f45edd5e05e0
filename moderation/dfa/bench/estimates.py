"""Numbers with their n and 95 % interval: Wilson for shares of pictures, a bootstrap by groups for everything else.

A bootstrap of what is always 0, or always 1, has no width: there it is Wilson's interval of as many groups.

This module needs only numpy, so that training can use it without the bench's other dependencies.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from moderation.intervals import wilson

#: Resamples of a bootstrap interval.
RESAMPLES = 500


@dataclass(frozen=True)
class Estimate:
    """A number from n observations, and the interval that holds it in 95 of 100 repetitions."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n {self.n}"


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive scores above a negative; ties count half. NaN without both."""
    ordered = np.argsort(scores, kind="stable")
    values, inverse, counts = np.unique(scores[ordered], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = ((last - counts + 1 + last) / 2)[inverse]  # mean rank among ties
    labels = positive[ordered].astype(bool)
    ones, zeros = int(labels.sum()), int((~labels).sum())
    if not len(values) or not ones or not zeros:
        return float("nan")
    return float((ranks[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def share(hits: int, n: int) -> Estimate:
    """A share of n independent observations, with Wilson's interval. NaN when n is 0."""
    if not n:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    return Estimate(hits / n, *wilson(hits, n), n)


def estimates(
    measure: Callable[[np.ndarray], Sequence[float]],
    groups: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Measures of rows (given as indices), with intervals by resampling whole groups, so that pairs stay together.

    A resample whose measure is NaN (because a label is missing, for example) does not count for that measure.
    """
    rng = np.random.default_rng(seed)
    values = measure(np.arange(len(groups)))
    draw = _groups_drawn(groups)
    samples = np.array([measure(draw(rng)) for _ in range(resamples if len(groups) else 0)])
    samples = samples.reshape(-1, len(values))
    return [
        Estimate(float(value), *_middle(column), len(groups))
        for value, column in zip(values, samples.T, strict=True)
    ]


def _groups_drawn(groups: Sequence[str]) -> Callable[[np.random.Generator], np.ndarray]:
    """A function that draws as many groups as there are, with replacement, and returns their rows."""
    _, members, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    rows = np.argsort(members, kind="stable")  # sorted by group
    starts = np.cumsum(counts) - counts

    def draw(rng: np.random.Generator) -> np.ndarray:
        drawn = rng.integers(len(counts), size=len(counts))
        lengths = counts[drawn]
        before = np.cumsum(lengths) - lengths
        return rows[np.repeat(starts[drawn] - before, lengths) + np.arange(lengths.sum())]

    return draw


def _middle(samples: np.ndarray) -> tuple[float, float]:
    """The interval that holds 95 of 100 samples. NaN when none is finite."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return float("nan"), float("nan")
    low, high = np.quantile(kept, [0.025, 0.975])
    return float(low), float(high)


def halves(groups: Iterable[str]) -> dict[str, int]:
    """The half, 0 or 1, of each group, at random: fit on one half, score on the other."""
    names = sorted(set(groups))
    order = np.random.default_rng(0).permutation(len(names))
    return {names[index]: place % 2 for place, index in enumerate(order)}


def estimate(measure: Callable[[np.ndarray], float], groups: Sequence[str], *, seed: int = 0) -> Estimate:
    """`estimates` for a single measure."""
    return estimates(lambda rows: [measure(rows)], groups, seed=seed)[0]


def mean_estimate(values: Sequence[float], groups: Sequence[str]) -> Estimate:
    """A mean, with its interval by groups."""
    numbers = np.asarray(values, dtype=float)
    mean = estimate(lambda rows: float(numbers[rows].mean()) if len(rows) else float("nan"), groups)
    return with_width(mean, len(set(groups)))


def with_width(found: Estimate, of: int) -> Estimate:
    """A share or a rank measure of 0 or 1 that no resample changes, with Wilson's interval of `of` groups."""
    if found.value not in {0.0, 1.0} or found.low != found.high:
        return found
    return Estimate(found.value, *wilson(round(found.value) * of, of), found.n)


def mean_estimates(rows: Sequence[Sequence[float]], groups: Sequence[str]) -> list[Estimate]:
    """`mean_estimate` of every column. There is at least one row."""
    columns = [np.array(column, dtype=float) for column in zip(*rows, strict=True)]
    means = estimates(lambda drawn: [float(column[drawn].mean()) for column in columns], groups)
    return [with_width(mean, len(set(groups))) for mean in means]


def another(count: int, *, seed: int = 0) -> np.ndarray:
    """For each of `count` things another one: its neighbour in a random ring."""
    order = np.random.default_rng(seed).permutation(count)
    neighbours = np.empty_like(order)
    neighbours[order] = np.roll(order, 1)
    return neighbours


def auc_estimate(scores: Sequence[float], positive: Sequence[bool], groups: Sequence[str]) -> Estimate:
    values, labels = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    found = estimate(lambda rows: auc(values[rows], labels[rows]), groups)
    return with_width(found, len(set(groups)))


def macro_f1(truth: Sequence[str], said: Sequence[str | None], classes: Sequence[str]) -> float:
    """The mean F1 over classes. An unreadable answer (None) is wrong."""
    return float(np.mean([_f1_of(truth, said, name) for name in classes if name in truth]))


def _f1_of(truth: Sequence[str], said: Sequence[str | None], name: str) -> float:
    hits = sum(t == name and s == name for t, s in zip(truth, said, strict=True))
    total = sum(t == name for t in truth) + sum(s == name for s in said)
    return 2 * hits / total if total else 0.0


def region_counts(truth: Sequence[Set[str]], said: Sequence[Set[str]]) -> np.ndarray:
    """(n, 3): for each picture the number of regions both touched and named, touched, and named."""
    rows = [(len(t & s), len(t), len(s)) for t, s in zip(truth, said, strict=True)]
    return np.array(rows, dtype=float).reshape(-1, 3)


def region_scores(counts: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F1 over all (picture, region) of `region_counts`. 0 when nothing is touched or named."""
    hits, touched, named = counts.sum(axis=0).tolist()
    return (
        hits / named if named else 0.0,
        hits / touched if touched else 0.0,
        2 * hits / (touched + named) if touched + named else 0.0,
    )


def region_f1(truth: Sequence[Set[str]], said: Sequence[Set[str]]) -> float:
    """F1 over all (picture, region) pairs that are touched or named."""
    return region_scores(region_counts(truth, said))[2]


def blind_regions(truth: Sequence[Set[str]]) -> set[str]:
    """The set of regions that scores best as the answer to every picture, unseen."""
    names = sorted({name for regions in truth for name in regions})
    often = sorted(names, key=lambda name: -sum(name in regions for regions in truth))
    candidates = [set(often[:count]) for count in range(1, len(often) + 1)]
    return max(candidates, key=lambda said: region_f1(truth, [said] * len(truth)), default=set[str]())
