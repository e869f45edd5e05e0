"""Tables of numbers: what the report is made of, whether it is read by a program or by people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moderation.dfa.bench.estimates import Estimate

#: One number with its interval, a plain one, words, or nothing to be measured.
Cell = Estimate | float | int | str | None


@dataclass(frozen=True)
class Table:
    """Rows of the same columns. The first column names the row."""

    name: str
    title: str
    #: What must be known to read it.
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def as_json(self) -> list[Mapping[str, Any]]:
        """One object a row; what is not a number is null."""
        return [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]

    def as_markdown(self) -> str:
        lines = [f"## {self.title}", "", self.note, ""] if self.note else [f"## {self.title}", ""]
        lines += [_line(self.columns), f"|{'---|' * len(self.columns)}"]
        lines += [_line([in_words(cell) for cell in row]) for row in self.rows]
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Estimate):
        return {name: _plain(value) for name, value in asdict(cell).items()}
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def in_words(cell: Cell) -> str:
    """For people: three digits, the interval in brackets, a dash where there is nothing."""
    if isinstance(cell, Estimate):
        if not math.isfinite(cell.value):
            return "–"
        if not math.isfinite(cell.low):
            return f"{cell.value:.3f}"
        return f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    if isinstance(cell, float):
        return f"{cell:.3f}" if math.isfinite(cell) else "–"
    return "–" if cell is None else str(cell)
