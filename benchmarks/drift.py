"""Is drift found, and how often is there an alarm although nothing drifts, on replayed traffic?

    python -m benchmarks.drift [--quarters 40] [--shifts 40] [--json]

An installation of five sources is replayed. Each has its own kind of pictures and sends 250 cases a week; the
first 1,000 are the certificate's window. Every source is looked at once a week, together 65 times a quarter: its newest
500 cases are compared with that window. Stationary: nothing changes, and the number is alarms a quarter in the whole
installation. Shifted: in one week one source changes, in one of the ways below, and the number is how many of its cases
came until the alarm. A case has what the database has: the margin, whether the model abstained, faces, facts of the
picture, and what the tower sees. Their relations are roughly those of lab pictures. No number is a time.
"""

import statistics
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.show import Row, options, report
from moderation.evidence.drift import LATE_AT_MOST, REFERENCE_AT_MOST, VIEW, WEEKS_A_QUARTER, doubt_of, look

SOURCES, A_WEEK = 5, 250
#: Weeks after a shift that are followed.
FOLLOWED = 8

Case = dict[str, float | None]
Settings = dict[str, float]


def usual(source: int) -> Settings:
    """What the pictures of a source are like."""
    return {
        "prevalence": 0.05 + 0.05 * source,
        "deepfake": 2.0,
        "bona_fide": -3.0 + 0.2 * source,
        "pixels": 13.0 + 0.2 * source,
        "bytes_per_pixel": -1.2 + 0.1 * source,
        "abstained": 0.04,
        "faces": 0.3,
        "view": 0.2 * source,
    }


def cases(of: Mapping[str, float], n: int, draw: np.random.Generator) -> list[Case]:
    made: list[Case] = []
    for _ in range(n):
        fake = draw.random() < of["prevalence"]
        abstained = draw.random() < of["abstained"]
        pixels = draw.normal(of["pixels"], 0.6)
        quality = draw.normal(of["bytes_per_pixel"], 0.4)
        margin = draw.normal(of["deepfake"] if fake else of["bona_fide"], 1.0) + 0.3 * quality
        made.append(
            {
                "margin": None if abstained else float(margin),
                "faces": float(1 + draw.poisson(of["faces"])),
                "pixels": float(pixels),
                "aspect": float(draw.choice([0.56, 0.75, 1.0, 1.33])),
                "bytes_per_pixel": float(quality),
            }
            | {f"{VIEW}{n}": round(2 * float(draw.normal(of["view"] * (-1) ** n, 1.0))) / 2 for n in range(8)}
        )
    return made


def deepfakes_that_are_missed(of: Settings) -> Settings:
    """A new generator: a third of the pictures are its deepfakes, and the margin is low for them."""
    return of | {"prevalence": of["prevalence"] + 0.33, "deepfake": -0.5}


#: How a source may change.
SHIFTS: Mapping[str, Callable[[Settings], Settings]] = {
    "a new generator that the model misses": deepfakes_that_are_missed,
    "pictures are compressed anew": lambda of: of | {"bytes_per_pixel": of["bytes_per_pixel"] - 0.4},
    "another size": lambda of: of | {"pixels": of["pixels"] - 0.6},
    "the model abstains in 20 % instead of 4 %": lambda of: of | {"abstained": 0.2},
    "margins move by half a deviation": lambda of: of | {"bona_fide": of["bona_fide"] + 0.5},
    "only the tower sees it, by half a deviation": lambda of: of | {"view": of["view"] + 0.5},
}


def alarms(source: int, draw: np.random.Generator, weeks: int, later: Settings | None = None) -> list[int]:
    """The weeks, from 1, in which a look was an alarm. With `later` the source changes before the first."""
    before = cases(usual(source), REFERENCE_AT_MOST, draw)
    # The cases of the two weeks before. A look sees those that newer ones have not replaced yet.
    late = cases(usual(source), LATE_AT_MOST, draw)
    found: list[int] = []
    for week in range(1, weeks + 1):
        late = (late + cases(later or usual(source), A_WEEK, draw))[-LATE_AT_MOST:]
        seed = int(draw.integers(2**32))
        if look(str(source), before, late, doubt=doubt_of(SOURCES), seed=seed).alarm:
            found.append(week)
            if later is not None:
                break
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--quarters", type=int, default=40)
    parser.add_argument("--shifts", type=int, default=40, help="of each kind")
    asked = parser.parse_args()
    draw = np.random.default_rng(18)
    rows = list[Row]()
    figures: dict[str, float] = {}
    counts = [
        sum(len(alarms(source, draw, WEEKS_A_QUARTER)) for source in range(SOURCES))
        for _ in range(asked.quarters)
    ]
    figures["false_alarms_a_quarter"] = round(statistics.mean(counts), 3)
    figures["quarters_without_alarm"] = round(sum(not count for count in counts) / len(counts), 3)
    rows.append(
        (
            "nothing changes",
            f"{figures['false_alarms_a_quarter']} alarms a quarter",
            f"none in {figures['quarters_without_alarm']:.0%} of {asked.quarters} quarters",
        )
    )
    for number, (name, change) in enumerate(SHIFTS.items()):
        found = [
            alarms(turn % SOURCES, draw, FOLLOWED, change(usual(turn % SOURCES)))
            for turn in range(asked.shifts)
        ]
        after = [weeks[0] * A_WEEK for weeks in found if weeks]
        within = sum(cases_seen <= LATE_AT_MOST for cases_seen in after) / asked.shifts
        rows.append(
            (name, f"within 500 cases in {within:.0%}", f"found at all in {len(after) / asked.shifts:.0%}")
        )
        figures[f"found_within_500_{number}"] = round(within, 3)
        figures[f"found_{number}"] = round(len(after) / asked.shifts, 3)
    figures["found_within_500"] = min(figures[f"found_within_500_{number}"] for number in range(len(SHIFTS)))
    report("Drift: found, and not imagined", rows, {"drift": figures}, as_json=asked.json)


if __name__ == "__main__":
    main()
