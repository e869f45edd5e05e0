"""`make upgrade-test`: print the report, and end with 1 when anything was lost or stopped."""

import argparse
import dataclasses
import json
import sys

from rich.console import Console
from rich.table import Table

from moderation.local import scratch_folder
from tests.upgrade.upgrade import upgrade


def main() -> None:
    parser = argparse.ArgumentParser(description="Upgrade from the release before, under load.")
    parser.add_argument("--cases", type=int, default=300, help="become ready on the way, about")
    parser.add_argument("--every", type=float, default=0.3, help="seconds between two flags")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    screen = Console(stderr=True)
    with scratch_folder("bonafide-upgrade-") as folder:
        report = upgrade(folder, cases=asked.cases, every=asked.every, say=screen.print)
    if asked.json:
        print(json.dumps(dataclasses.asdict(report)))
    else:
        table = Table("", "", title=f"{report.old} → {report.new}")
        for name, value in dataclasses.asdict(report).items():
            if name == "ready":
                for part, number in value.items():
                    table.add_row(f"ready: {part}", str(number))
            else:
                table.add_row(name, f"{value:.1f}" if isinstance(value, float) else str(value))
        Console().print(table)
    bad = report.lost or report.duplicated or report.chains_broken or report.stopped or report.refused
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
