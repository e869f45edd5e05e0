"""The few numbers that training reports about itself, each with its n and its 95 % interval."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np

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
    """The chance that a positive scores above a negative, ties counted half. Not a number without both."""
    ordered = np.argsort(scores, kind="stable")
    values, inverse, counts = np.unique(scores[ordered], return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = ((last - counts + 1 + last) / 2)[inverse]  # mean rank among ties
    labels = positive[ordered].astype(bool)
    ones, zeros = int(labels.sum()), int((~labels).sum())
    if not len(values) or not ones or not zeros:
        return float("nan")
    return float((ranks[labels].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def estimate(measure: Callable[[np.ndarray], float], groups: Sequence[str], *, seed: int = 0) -> Estimate:
    """A measure of rows (given as indices), with an interval by resampling whole groups: pairs stay together."""
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = [np.flatnonzero(members == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    everything = np.arange(len(groups))
    samples = [
        measure(np.concatenate([rows_of[index] for index in rng.integers(len(names), size=len(names))]))
        for _ in range(RESAMPLES)
    ]
    kept = np.array([sample for sample in samples if np.isfinite(sample)])
    low, high = np.quantile(kept, [0.025, 0.975]) if len(kept) else (float("nan"), float("nan"))
    return Estimate(float(measure(everything)), float(low), float(high), len(groups))


def auc_estimate(scores: Sequence[float], positive: Sequence[bool], groups: Sequence[str]) -> Estimate:
    values, labels = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    return estimate(lambda rows: auc(values[rows], labels[rows]), groups)


def macro_f1(truth: Sequence[str], said: Sequence[str | None], classes: Sequence[str]) -> float:
    """The mean over classes of F1. An answer that could not be read (None) is wrong."""
    return float(np.mean([_f1_of(truth, said, name) for name in classes if name in truth]))


def _f1_of(truth: Sequence[str], said: Sequence[str | None], name: str) -> float:
    hits = sum(t == name and s == name for t, s in zip(truth, said, strict=True))
    total = sum(t == name for t in truth) + sum(s == name for s in said)
    return 2 * hits / total if total else 0.0


def region_f1(truth: Sequence[Set[str]], said: Sequence[Set[str]]) -> float:
    """F1 over all (picture, region) that are touched or named."""
    hits = sum(len(t & s) for t, s in zip(truth, said, strict=True))
    total = sum(len(t) + len(s) for t, s in zip(truth, said, strict=True))
    return 2 * hits / total if total else 0.0


def blind_regions(truth: Sequence[Set[str]]) -> set[str]:
    """The one set of regions that scores best when it is answered for every picture unseen."""
    names = sorted({name for regions in truth for name in regions})
    often = sorted(names, key=lambda name: -sum(name in regions for regions in truth))
    candidates = [set(often[:count]) for count in range(1, len(often) + 1)]
    return max(candidates, key=lambda said: region_f1(truth, [said] * len(truth)), default=set[str]())
