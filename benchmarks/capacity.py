"""Servers, cores and dollars for a number of uploads a day, from measured constants: the tables of docs/scale.md.

    python -m benchmarks.capacity [--json]

A line of CONSTANTS has a number, its source and its meaning. Change one and run it again: a test compares
`docs/scale.md` with what this prints.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.show import options

#: Uploads a day.
VOLUMES = (1_000_000, 100_000_000, 1_000_000_000)
#: Shares of the uploads that are flagged and come here.
FLAG_RATES = (0.01, 0.1, 1.0)
#: Shares of the flagged that leave after detection, without techniques and text: confident bona fide.
EXITS = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Constant:
    value: float
    #: `measured` here, `calculated` or `expected` in the engine's reference, or a `price` to be replaced by your own.
    kind: str
    meaning: str


CONSTANTS: Mapping[str, Constant] = {
    "gpu_seconds_detection": Constant(
        1 / 71, "expected", "GPU seconds for an image that leaves after detection (7B, H200)"
    ),
    "gpu_seconds_full": Constant(
        1 / 30, "expected", "GPU seconds for an image with techniques and 120 tokens of text"
    ),
    "gpu_busy": Constant(
        0.8, "calculated", "Busy share to plan for: above it cases wait longer (benchmarks.scale, 80 % load)"
    ),
    "peak_over_mean": Constant(2.0, "expected", "The busiest hour over the mean of the day"),
    "worker_cpu_seconds": Constant(
        0.062, "measured", "CPU of a worker per image: fetch, decode, faces, record (benchmarks.pipeline)"
    ),
    "api_cases_per_second": Constant(
        3593, "measured", "Cases a second that one console process accepts in batches (benchmarks.intake)"
    ),
    "postgres_cpu_seconds": Constant(
        0.0037, "measured", "CPU of Postgres per case, from lease to record (benchmarks.scale)"
    ),
    "postgres_cores": Constant(16, "expected", "Cores of the largest Postgres that is still easy to run"),
    "postgres_busy": Constant(0.6, "expected", "Busy share of Postgres to plan for"),
    "redis_cpu_seconds": Constant(
        0.00042, "measured", "CPU of the broker per case (benchmarks.scale); it has one core"
    ),
    "redis_busy": Constant(0.6, "expected", "Busy share of the broker to plan for"),
    "postgres_bytes": Constant(
        1900,
        "measured",
        "Bytes of tables and indexes per case with four events, without artifacts' texts (benchmarks.volume)",
    ),
    "text_bytes": Constant(
        4000, "expected", "Additional bytes for a case with a rationale: faces, artifacts, further events"
    ),
    "s3_gets": Constant(1, "measured", "GET requests per image: the worker fetches it once"),
    "gpu_dollars_hour": Constant(3.5, "price", "One H200 for an hour"),
    "core_dollars_hour": Constant(0.04, "price", "One core for an hour"),
    "s3_dollars_million": Constant(0.4, "price", "A million GET requests"),
    "gigabyte_dollars_month": Constant(
        0.115, "price", "A gigabyte of database disk for a month; a case stays for twelve"
    ),
}


_COLUMNS = (
    *("Uploads a day", "flagged", "leave early", "images/s", "GPUs", "worker cores", "consoles"),
    *("Postgres", "Redis", "GB a day", "S3 GETs a day", "$ per million"),
)


@dataclass(frozen=True)
class Need:
    """For one volume, flag rate and exit share."""

    uploads: int
    flag_rate: float
    exits: float
    #: Flagged images a second: the mean of the day.
    mean: float
    #: For the busiest hour.
    gpus: int
    worker_cores: int
    consoles: int
    #: Share of one server's planned capacity: above 1 you need more than one.
    postgres: float
    redis: float
    #: Per day.
    postgres_gigabytes: float
    s3_gets: float
    #: Per million flagged images: GPUs and cores by the hour of use, requests, a year of disk.
    dollars_per_million: float


def need(uploads: int, flag_rate: float, exits: float, c: Mapping[str, float]) -> Need:
    images = uploads * flag_rate
    mean = images / 86_400
    peak = mean * c["peak_over_mean"]
    gpu_seconds = exits * c["gpu_seconds_detection"] + (1 - exits) * c["gpu_seconds_full"]
    stored = c["postgres_bytes"] + (1 - exits) * c["text_bytes"]
    cpu = c["worker_cpu_seconds"] + c["postgres_cpu_seconds"] + c["redis_cpu_seconds"]
    dollars = 1e6 * (
        gpu_seconds / c["gpu_busy"] / 3600 * c["gpu_dollars_hour"]
        + cpu / 0.5 / 3600 * c["core_dollars_hour"]
        + c["s3_gets"] * c["s3_dollars_million"] / 1e6
        + stored / 1e9 * 12 * c["gigabyte_dollars_month"]
    )
    return Need(
        uploads,
        flag_rate,
        exits,
        mean,
        gpus=math.ceil(peak * gpu_seconds / c["gpu_busy"]),
        worker_cores=math.ceil(peak * c["worker_cpu_seconds"] / 0.8),
        consoles=max(2, math.ceil(peak / (0.5 * c["api_cases_per_second"]))),
        postgres=peak * c["postgres_cpu_seconds"] / (c["postgres_cores"] * c["postgres_busy"]),
        redis=peak * c["redis_cpu_seconds"] / c["redis_busy"],
        postgres_gigabytes=images * stored / 1e9,
        s3_gets=images * c["s3_gets"],
        dollars_per_million=dollars,
    )


def needs() -> Sequence[Need]:
    return [need(u, f, e, _values()) for u in VOLUMES for f in FLAG_RATES for e in EXITS]


def _values() -> Mapping[str, float]:
    return {name: constant.value for name, constant in CONSTANTS.items()}


def tables() -> str:
    """The tables of docs/scale.md."""
    lines = ["| Constant | Value | Kind | Meaning |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {c.value:.5g} | {c.kind} | {c.meaning} |" for name, c in CONSTANTS.items()]
    lines += ["", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [
        f"| {n.uploads:,} | {n.flag_rate:.0%} | {n.exits:.0%} | {n.mean:,.1f} | {n.gpus:,} | {n.worker_cores:,} "
        f"| {n.consoles} | {n.postgres:.3f} | {n.redis:.3f} | {n.postgres_gigabytes:,.1f} | {n.s3_gets:,.0f} "
        f"| {n.dollars_per_million:.0f} |"
        for n in needs()
    ]
    return "\n".join(lines)


def one_of_each() -> dict[str, float]:
    """Images a second that one Postgres and one broker carry at their planned busy share."""
    value = _values()
    return {
        "postgres": value["postgres_cores"] * value["postgres_busy"] / value["postgres_cpu_seconds"],
        "redis": value["redis_busy"] / value["redis_cpu_seconds"],
    }


def main() -> None:
    asked = options(__doc__).parse_args()
    print(tables())
    if asked.json:
        found = {"images_per_second_of_one": one_of_each(), "needs": [vars(n) for n in needs()]}
        print(json.dumps({"capacity": found}))


if __name__ == "__main__":
    main()
