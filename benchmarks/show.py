"""What all benchmarks share: options, percentiles, and a table for people; with --json the numbers on the last line."""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

#: A name, a value and a remark.
Row = tuple[str, str, str]


def options(description: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark's options, with the one that all have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="the figures as one object on the last line")
    return parser


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def growth(
    words: str, key: str, things: str, spent: Mapping[int, Sequence[float]]
) -> tuple[list[Row], dict[str, float]]:
    """Rows and figures of one work's milliseconds, by the number of `things`, the smallest number first."""
    rows, figures = list[Row](), dict[str, float]()
    for count, times in spent.items():
        middle, tail = statistics.median(times), p99(times)
        rows.append((f"{words}, {count:,} {things}", f"p50 {middle:.1f} ms", f"p99 {tail:.1f} ms"))
        figures |= {f"{key}_p50_ms_{count}": round(middle, 2), f"{key}_p99_ms_{count}": round(tail, 2)}
    smallest, *_, largest = spent.values()
    p50_ratio = round(statistics.median(largest) / statistics.median(smallest), 3)
    p99_ratio = round(p99(largest) / p99(smallest), 3)
    rows.append((f"{words}, ratio", f"p50 × {p50_ratio}", f"p99 × {p99_ratio}"))
    return rows, figures | {f"{key}_p50_ratio": p50_ratio, f"{key}_p99_ratio": p99_ratio}


def report(title: str, rows: Sequence[Row], figures: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the results."""
    table = Table("what", "measured", "remark", title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if as_json:
        print(json.dumps(figures))
