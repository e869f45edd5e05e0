"""The output of a benchmark: a table for people; with --json its numbers as one object on the last line."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def report(
    title: str, rows: Sequence[tuple[str, str, str]], figures: Mapping[str, Any], *, as_json: bool
) -> None:
    """Print the results. A row is a name, a value and a remark."""
    table = Table("what", "measured", "remark", title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if as_json:
        print(json.dumps(figures))
