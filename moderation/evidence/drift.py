"""Drift: whether a source's recent pictures are like those of its certificate. It only computes with numbers.

Two samples are compared as a whole, by the energy distance of their cases (Székely and Rizzo 2013) with a p-value by
permutation. For any numbers, however they depend on each other, at most a share `doubt` of equal samples is called
different. A missing number counts as a value too. PSI shows people, number by number, where a difference lies. It
raises no alarm: its usual limits mean nothing for a few hundred cases (`expected_psi`).

Different pictures do not mean lower accuracy. They are a reason to look at the examples and at the audit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: False alarms per quarter that a whole installation may have while nothing changes.
FALSE_ALARMS_A_QUARTER = 0.5
WEEKS_A_QUARTER = 13
#: Newest cases that are compared at most: of the certificate's window, and recent ones.
REFERENCE_AT_MOST, LATE_AT_MOST = 1000, 500
#: Smaller samples say nothing.
ENOUGH = 100
#: Prefix of the numbers of a tower's view, and their weight. All of them together weigh as much as two other numbers.
VIEW, VIEW_WEIGHT = "view_", 0.5
#: Bands of PSI, each with an equal part of the reference.
BANDS = 10


@dataclass(frozen=True)
class Shifted:
    """How far one number of the cases shifted."""

    name: str
    psi: float
    #: The mean PSI of equal samples of this size.
    expected: float
    before: float  # medians of cases that have it
    late: float


@dataclass(frozen=True)
class SourceDrift:
    """The comparison of two samples of one source."""

    source: str
    before: int
    late: int
    #: The chance of such a large difference between equal samples. None: too few cases.
    p: float | None
    doubt: float
    #: The most shifted first.
    shifted: tuple[Shifted, ...] = ()
    #: Indexes of the recent cases that are furthest from all earlier ones, as examples.
    examples: tuple[int, ...] = ()

    @property
    def alarm(self) -> bool:
        return self.p is not None and self.p <= self.doubt


def doubt_of(looks_a_week: int) -> float:
    """The p-value below which a look is an alarm, for so many looks a week."""
    return FALSE_ALARMS_A_QUARTER / (WEEKS_A_QUARTER * max(1, looks_a_week))


def look(
    source: str,
    before: Sequence[Mapping[str, float | None]],
    late: Sequence[Mapping[str, float | None]],
    *,
    doubt: float,
    seed: int,
) -> SourceDrift:
    """Compare the newest cases of both samples. The same cases and seed give the same answer."""
    before, late = before[-REFERENCE_AT_MOST:], late[-LATE_AT_MOST:]
    if min(len(before), len(late)) < ENOUGH:
        return SourceDrift(source, len(before), len(late), None, doubt)
    names = sorted({name for case in (*before, *late) for name in case})
    cases = _columns(names, before, late)
    apart = _distances(cases)
    p = _permuted(apart, len(before), math.ceil(4 / doubt), np.random.default_rng(seed))
    far = apart[len(before) :, : len(before)].mean(axis=1)
    return SourceDrift(
        source,
        len(before),
        len(late),
        p,
        doubt,
        tuple(sorted((_shifted(name, before, late) for name in names), key=lambda one: -one.psi)),
        tuple(int(at) for at in np.argsort(-far)[:5]),
    )


def _columns(
    names: Sequence[str],
    before: Sequence[Mapping[str, float | None]],
    late: Sequence[Mapping[str, float | None]],
) -> np.ndarray:
    """(N, D): the rank of each number in both samples together, from 0 to 1, and whether it is present.

    With ranks no outlier and no unit dominates. Ranks over both samples do not show which sample a case is from.
    """
    columns: list[np.ndarray] = []
    for name in names:
        values = np.array(
            [np.nan if case.get(name) is None else case[name] for case in (*before, *late)], float
        )
        there = ~np.isnan(values)
        ranks = np.full(len(values), 0.5)
        known, places, counts = np.unique(values[there], return_inverse=True, return_counts=True)
        if len(known):
            ends = np.cumsum(counts)
            ranks[there] = ((ends - counts / 2) / ends[-1])[places]
        weight = VIEW_WEIGHT if name.startswith(VIEW) else 1.0
        columns.append(weight * ranks)
        if not there.all():
            columns.append(weight * there)
    return np.stack(columns, axis=1)


def _distances(cases: np.ndarray) -> np.ndarray:
    """The distance of every two cases: (N, N)."""
    squares = (cases**2).sum(axis=1)
    return np.sqrt(np.maximum(0.0, squares[:, None] + squares[None, :] - 2 * cases @ cases.T))


def _permuted(apart: np.ndarray, before: int, times: int, draw: np.random.Generator) -> float:
    """How often random sides are as far apart as the real ones. It is never 0, because the real sides count too."""
    n = len(apart)
    sides = np.zeros((n, times + 1), dtype=apart.dtype)
    sides[:before, 0] = 1.0
    for column in range(1, times + 1):
        sides[draw.permutation(n)[:before], column] = 1.0
    # For each draw: the sums of distances within the first side, within the second, and between both.
    met = apart @ sides
    within = (sides * met).sum(axis=0)
    total = met.sum(axis=0)
    between = total - within
    rest = apart.sum() - within - 2 * between
    late = n - before
    energy = 2 * between / (before * late) - within / before**2 - rest / late**2
    return float((energy >= energy[0] - 1e-12).mean())


def _shifted(
    name: str, before: Sequence[Mapping[str, float | None]], late: Sequence[Mapping[str, float | None]]
) -> Shifted:
    ours, theirs = _values(name, before), _values(name, late)
    return Shifted(
        name,
        psi(ours, theirs),
        expected_psi(len(ours), len(theirs)),
        float(np.median(ours)) if len(ours) else math.nan,
        float(np.median(theirs)) if len(theirs) else math.nan,
    )


def _values(name: str, cases: Sequence[Mapping[str, float | None]]) -> np.ndarray:
    return np.array([value for case in cases if (value := case.get(name)) is not None], float)


def psi(before: np.ndarray, late: np.ndarray) -> float:
    """The population stability index over tenths of the reference, plus half a case per band so that none is empty."""
    if not len(before) or not len(late):
        return 0.0
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BANDS + 1)[1:-1]))
    ours = np.bincount(np.searchsorted(edges, before, side="right"), minlength=len(edges) + 1) + 0.5
    theirs = np.bincount(np.searchsorted(edges, late, side="right"), minlength=len(edges) + 1) + 0.5
    ours, theirs = ours / ours.sum(), theirs / theirs.sum()
    return float(((theirs - ours) * np.log(theirs / ours)).sum())


def expected_psi(before: int, late: int) -> float:
    """The approximate PSI of equal samples (Yurdakul 2018): a chi-squared with one degree less than bands."""
    return (BANDS - 1) * (1 / max(1, before) + 1 / max(1, late))
