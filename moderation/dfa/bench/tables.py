"""Tables of numbers, the parts of the report, for programs and for people."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moderation.dfa.bench.estimates import Estimate

#: A number with its interval, a plain number, words, or None: nothing was measured.
Cell = Estimate | float | int | str | None


@dataclass(frozen=True)
class Table:
    """Rows of the same columns. The first column names the row."""

    name: str
    title: str
    #: What a reader must know.
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def as_json(self) -> list[Mapping[str, Any]]:
        """One object per row. NaN becomes null."""
        return [dict(zip(self.columns, map(_plain, row), strict=True)) for row in self.rows]

    def as_markdown(self) -> str:
        lines = [f"## {self.title}", "", self.note, ""] if self.note else [f"## {self.title}", ""]
        lines += markdown(self.columns, (map(in_words, row) for row in self.rows))
        return "\n".join(lines) + "\n"


def markdown(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [_line(columns), f"|{'---|' * len(columns)}", *map(_line, rows)]


def _line(cells: Iterable[object]) -> str:
    written = (str(cell).replace("|", "/") for cell in cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in written)


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Estimate):
        return {name: _plain(value) for name, value in asdict(cell).items()}
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def in_words(cell: Cell) -> str:
    """A cell for people: three digits, the interval in brackets, a dash for nothing."""
    if isinstance(cell, Estimate):
        if not math.isfinite(cell.value):
            return "–"
        if not math.isfinite(cell.low):
            return f"{cell.value:.3f}"
        return f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    if isinstance(cell, float):
        return f"{cell:.3f}" if math.isfinite(cell) else "–"
    return "–" if cell is None else str(cell)
