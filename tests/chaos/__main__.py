"""Faults over a running system, by the seed.

    python -m tests.chaos --cases 300 [--seed 1] [--only Redis] [--at-once 1.3] [--json]
    python -m tests.chaos --control [--per-round 60]

Ends with 1 when a case was lost, duplicated or wrongly ended. With `--control` a few faults, one at a time, first on a
plain Celery worker, to show what they do to that.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.campaign import Report, run
from tests.chaos.control import Plain, faults_of_both, run_plain
from tests.chaos.faults import FAULTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-round", type=int, default=25, help="cases submitted under one fault")
    parser.add_argument("--at-once", type=float, default=1.3, help="faults in one round, on average")
    parser.add_argument("--minutes", type=float, default=600, help="no round begins after so long")
    parser.add_argument("--only", help="faults whose name holds this")
    parser.add_argument("--control", action="store_true", help="beside a plain Celery worker")
    parser.add_argument("--keep", type=Path, help="a folder for logs and data, kept afterwards")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = asked.keep or Path(name) / "chaos"
        folder.mkdir(parents=True, exist_ok=True)
        control: Mapping[str, Plain] = {}
        if asked.control:
            (folder / "plain").mkdir()
            control = run_plain(folder / "plain", per_fault=asked.per_round, seed=asked.seed)
        report = run(
            folder,
            cases=asked.cases if not asked.control else 0,
            seed=asked.seed,
            per_round=asked.per_round,
            at_once=asked.at_once if not asked.control else 1,
            faults=faults_of_both() if asked.control else [f for f in FAULTS if (asked.only or "") in f.name],
            minutes=asked.minutes,
            every_fault=asked.control,
        )
    if asked.json:
        plain = {name: dataclasses.asdict(one) for name, one in control.items()}
        print(json.dumps(dataclasses.asdict(report) | ({"control": plain} if plain else {})))
    else:
        _show(report)
        _show_control(report, control)
    sys.exit(1 if report.lost or report.duplicated or report.wrong else 0)


def _show_control(report: Report, control: Mapping[str, Plain]) -> None:
    if not control:
        return
    table = Table(
        "fault", "cases", "lost", "duplicated", "plain: cases", "lost", "stuck", "duplicated", "most results"
    )
    for name, plain in control.items():
        ours = report.faults[name]
        row = (ours.cases, ours.lost, ours.duplicated, *dataclasses.astuple(plain))
        table.add_row(name, *map(str, row))
    Console().print(table)


def _show(report: Report) -> None:
    console = Console()
    table = Table(
        "fault", "trials", "cases", "lost", "duplicated", "wrong", "back in, median", "worst", "slowest call"
    )
    for name, one in report.faults.items():
        row = (one.trials, one.cases, one.lost, one.duplicated, one.wrong)
        times = (one.recovery_median, one.recovery_worst, one.call_worst)
        table.add_row(name, *map(str, row), *(f"{seconds:.1f} s" for seconds in times))
    console.print(table)
    console.print(
        f"{report.cases} cases in {report.seconds:.0f} s with seed {report.seed}: {report.lost} lost, "
        f"{report.duplicated} duplicated, {len(report.wrong)} wrong; {report.processes_restarted} processes "
        f"restarted, {report.leases_expired} leases expired, attempts of healthy cases {report.attempts}; "
        f"meanwhile {report.meanwhile}"
    )
    for words in report.wrong:
        console.print(words, style="red")


if __name__ == "__main__":
    main()
