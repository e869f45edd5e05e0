"""Drift: whether a source's pictures of late are like those that a certificate was made of. Arithmetic over numbers.

Two samples are held against each other as a whole, by the energy distance of their cases (Székely and Rizzo 2013) with
a p-value by permutation: whatever the numbers are and however they hang together, of samples that do not differ a part
of `doubt` is called different and no more. A number that a case does not have is one that it lacks, which is a number
too. PSI, number by number, says to people where a difference lies. It raises no alarm: its usual limits mean nothing
for a few hundred cases (`expected_psi`).

A difference of the pictures is not a loss of accuracy. It is a reason to look: at the examples, and at the audit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Of one quarter, the alarms that there may be where nothing changes, of an installation as a whole.
FALSE_ALARMS_A_QUARTER = 0.5
WEEKS_A_QUARTER = 13
#: Cases of the certificate's window, and of late, that are held against each other at the most: the newest.
REFERENCE_AT_MOST, LATE_AT_MOST = 1000, 500
#: Fewer say nothing.
ENOUGH = 100
#: How the numbers of a tower's view begin. Each weighs less than another number does: all of them weigh as much as two.
VIEW, VIEW_WEIGHT = "view_", 0.5
#: Bands of PSI, of equal parts of the reference.
BANDS = 10


@dataclass(frozen=True)
class Shifted:
    """By how much one number of the cases shifted."""

    name: str
    psi: float
    #: What PSI is on average for samples of this size that do not differ.
    expected: float
    before: float  # medians, of those that have it
    late: float


@dataclass(frozen=True)
class Look:
    """What holding two samples of one source against each other found."""

    source: str
    before: int
    late: int
    #: The chance of a difference as large as this where there is none. None: too few cases to say.
    p: float | None
    doubt: float
    #: The most shifted first.
    shifted: tuple[Shifted, ...] = ()
    #: Indexes of late cases that lie furthest from all before: examples.
    examples: tuple[int, ...] = ()

    @property
    def alarm(self) -> bool:
        return self.p is not None and self.p <= self.doubt


def doubt_of(looks_a_week: int) -> float:
    """The p-value at which a look is an alarm, for an installation that looks so often."""
    return FALSE_ALARMS_A_QUARTER / (WEEKS_A_QUARTER * max(1, looks_a_week))


def look(
    source: str,
    before: Sequence[Mapping[str, float | None]],
    late: Sequence[Mapping[str, float | None]],
    *,
    doubt: float,
    seed: int,
) -> Look:
    """Hold the newest of both against each other. The same cases and seed give the same answer."""
    before, late = before[-REFERENCE_AT_MOST:], late[-LATE_AT_MOST:]
    if min(len(before), len(late)) < ENOUGH:
        return Look(source, len(before), len(late), None, doubt)
    names = sorted({name for case in (*before, *late) for name in case})
    cases = _columns(names, before, late)
    apart = _distances(cases)
    p = _permuted(apart, len(before), math.ceil(4 / doubt), np.random.default_rng(seed))
    far = apart[len(before) :, : len(before)].mean(axis=1)
    return Look(
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
    """(N, D): each number by its rank in both samples together, from 0 to 1, and whether it is there at all.

    By ranks no outlier and no unit outweighs the others; and ranks of both together know nothing of which is which.
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
    """How far apart any two cases are: (N, N)."""
    squares = (cases**2).sum(axis=1)
    return np.sqrt(np.maximum(0.0, squares[:, None] + squares[None, :] - 2 * cases @ cases.T))


def _permuted(apart: np.ndarray, before: int, times: int, draw: np.random.Generator) -> float:
    """How often cases that change sides at random lie as far apart as they do. Never 0: the sides as they are count."""
    n = len(apart)
    sides = np.zeros((n, times + 1), dtype=apart.dtype)
    sides[:before, 0] = 1.0
    for column in range(1, times + 1):
        sides[draw.permutation(n)[:before], column] = 1.0
    # For each drawing: the sums of distances within the first side, within the second, and between the two.
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
    """The population stability index over tenths of the reference. Half a case is added to each band: none is empty."""
    if not len(before) or not len(late):
        return 0.0
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BANDS + 1)[1:-1]))
    ours = np.bincount(np.searchsorted(edges, before, side="right"), minlength=len(edges) + 1) + 0.5
    theirs = np.bincount(np.searchsorted(edges, late, side="right"), minlength=len(edges) + 1) + 0.5
    ours, theirs = ours / ours.sum(), theirs / theirs.sum()
    return float(((theirs - ours) * np.log(theirs / ours)).sum())


def expected_psi(before: int, late: int) -> float:
    """About what PSI is where nothing differs (Yurdakul 2018): a chi-squared with a degree less than bands."""
    return (BANDS - 1) * (1 / max(1, before) + 1 / max(1, late))
