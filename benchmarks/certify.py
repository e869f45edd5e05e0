"""Do certificates keep their promise, on simulated traffic whose truth is known?

    python -m benchmarks.certify [--runs 1000] [--json]

Each run draws an installation's blind labels, certifies, and compares the zone's true error with the promise: at most
1 % with 95 % confidence. "kept" is the share of runs in which no certificate promised too much; it has to be 0.95
or more in each kind of traffic. The kinds are a good model, a weak one, few deepfakes, and the hardest: every zone
errs slightly more than promised, so that every certificate is wrong. "Chosen by the mean" is a certificate without
the test: the widest threshold whose labels happened to err no more than promised.

Then certificates that hold are audited: one case in five of the zone is still judged blind, in lots of twenty-five. If
nothing changes, the result is how many zone cases pass until it is revoked without need, as far as they are followed.
If the zone's error triples, it is how many pass until it is revoked. Nothing here is measured by the clock.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.show import Row, options, report
from moderation.evidence.certify import GRID, BlindSample, Promise, certify, holds

PROMISE = Promise(error=0.01, confidence=0.95)
#: Labels of one installation: three weeks of 250 a day, a tenth of them judged blind, are 525 a week or so.
LABELS = 1600
#: One case in this many of a zone is judged blind, and this many at a look.
AUDITED, LOT = 5, 25
#: Zone cases that a certificate is followed for.
FOLLOWED = 20_000


@dataclass(frozen=True)
class Traffic:
    """Scores and truth of an installation: a logit for each kind of picture, and the model's score for it."""

    name: str
    prevalence: float
    #: Means of the margins of bona fide pictures and of deepfakes, both with deviation 1.
    bona_fide: float
    deepfake: float

    def draw(self, n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Scores in [0, 1], and whether each is a deepfake."""
        truth = draw.random(n) < self.prevalence
        margin = draw.normal(np.where(truth, self.deepfake, self.bona_fide), 1.0)
        return 1 / (1 + np.exp(-margin)), truth


class Hardest(Traffic):
    """The error is the same below every threshold, and slightly too large."""

    def draw(self, n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return draw.random(n) * 0.5, draw.random(n) < 1.02 * PROMISE.error


KINDS = (
    Traffic("good model, 20 % deepfakes", 0.2, -3.5, 2.0),
    Traffic("weak model, 20 % deepfakes", 0.2, -1.5, 0.5),
    Traffic("good model, 2 % deepfakes", 0.02, -3.5, 1.0),
    Hardest("every zone slightly beyond the promise", 0.0, 0.0, 0.0),
)


def true_errors(kind: Traffic, draw: np.random.Generator) -> dict[float, float]:
    """The true error below each threshold, from two million cases."""
    if isinstance(kind, Hardest):
        return dict.fromkeys(GRID, 1.02 * PROMISE.error)
    scores, truth = kind.draw(2_000_000, draw)
    return {reach: float(truth[scores < reach].mean()) if (scores < reach).any() else 0.0 for reach in GRID}


def labels(kind: Traffic, draw: np.random.Generator) -> list[BlindSample]:
    scores, truth = kind.draw(LABELS, draw)
    return [BlindSample(float(s), bool(t), not t) for s, t in zip(scores, truth, strict=True)]


def by_the_mean(judged: list[BlindSample]) -> float | None:
    """The widest threshold whose labels err no more than promised: the wrong way."""
    passed = [
        reach
        for reach in GRID
        if (chosen := [one.deepfake for one in judged if one.score < reach])
        and sum(chosen) / len(chosen) <= PROMISE.error
    ]
    return max(passed, default=None)


def audit(
    n: int, errors: int, error: Callable[[int], float], draw: np.random.Generator, *, window: int
) -> int | None:
    """Zone cases until a certificate with these labels is revoked. None: it is not, as long as it is followed.

    The newest `window` labels decide. At first these include the labels of the certification.
    """
    known = np.zeros(n, dtype=bool)
    known[:errors] = True
    known = draw.permutation(known)
    for seen in range(AUDITED * LOT, FOLLOWED + 1, AUDITED * LOT):
        known = np.concatenate([known, draw.random(LOT) < error(seen)])[-window:]
        if not holds(len(known), int(known.sum()), PROMISE):
            return seen
    return None


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    asked = parser.parse_args()
    draw = np.random.default_rng(18)
    rows = list[Row]()
    figures: dict[str, float | None] = {}
    for number, kind in enumerate(KINDS):
        truth = true_errors(kind, draw)
        issued, broken, naive_broken = 0, 0, 0
        widest: list[float] = []
        for _ in range(asked.runs):
            judged = labels(kind, draw)
            found = certify(judged, PROMISE).certified
            if found is not None:
                issued += 1
                widest.append(found.n / LABELS)
                broken += truth[found.threshold] > PROMISE.error
            naive = by_the_mean(judged)
            naive_broken += naive is not None and truth[naive] > PROMISE.error
        kept = 1 - broken / asked.runs
        naive_kept = 1 - naive_broken / asked.runs
        zone = statistics.median(widest) if widest else 0.0
        remark = f"issued in {issued / asked.runs:.0%}: {zone:.0%} of traffic; by the mean: kept in {naive_kept:.1%}"
        rows.append((kind.name, f"kept in {kept:.1%}", remark))
        figures |= {
            f"kept_{number}": round(kept, 4),
            f"issued_{number}": round(issued / asked.runs, 4),
            f"zone_{number}": round(zone, 4),
            f"kept_by_the_mean_{number}": round(naive_kept, 4),
        }
    for name, key, error in (
        ("audited, the zone errs in .1 % as ever", "steady", lambda _: 0.001),
        ("audited, the zone's error triples to 3 %", "tripled", lambda _: 0.03),
    ):
        ends = [audit(1000, 1, error, draw, window=1000) for _ in range(asked.runs)]
        ended = sorted(end for end in ends if end is not None)
        middle = statistics.median(end if end is not None else FOLLOWED for end in ends)
        revoked = len(ended) / asked.runs
        rows.append((name, f"revoked in {revoked:.1%}", f"half of all within {middle:,.0f} zone cases"))
        figures |= {
            f"revoked_{key}": round(revoked, 4),
            f"zone_cases_until_revoked_{key}": middle,
            f"zone_cases_95_{key}": ended[int(0.95 * len(ended))] if ended else None,
        }
    figures["kept_at_least"] = min(figures[f"kept_{number}"] or 0.0 for number in range(len(KINDS)))
    report("Certificates: is the promise kept?", rows, {"certify": figures}, as_json=asked.json)


if __name__ == "__main__":
    main()
