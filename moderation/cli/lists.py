"""Reads lists of flags: JSON lines, or tables that spreadsheets write.

Text is UTF-8 or UTF-16, with or without a byte-order mark. Commas, semicolons or tabs separate columns.
"""

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from moderation.errors import SetupProblem

#: Columns of a table. JSON lines may hold more.
COLUMNS = ("image", "external_id", "source", "reason", "priority")
NEEDED = ("image", "external_id")

_SEPARATORS = (",", ";", "\t")


def opened(file: Path) -> IO[str]:
    """The list as text; `-` is standard input. Raise SetupProblem."""
    try:
        raw = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise SetupProblem(f"{file} cannot be read: {error.strerror}") from error
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(io.BytesIO(raw.read()))
    return io.TextIOWrapper(buffered, encoding=_encoding(buffered.peek(2)[:2]), newline="")


def _encoding(head: bytes) -> str:
    """By the byte-order mark, or by the NUL that UTF-16 puts beside an ASCII letter."""
    if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    return {b"\0": "utf-16-be"}.get(head[:1]) or {b"\0": "utf-16-le"}.get(head[1:]) or "utf-8-sig"


def rows(lines: IO[str], file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each line's number, with its cells by column. Empty cells are left out.

    Raise SetupProblem before the first line if the header lacks a needed column, or names an unknown one.
    """
    first = lines.readline()
    # Excel's own line, which names the separator.
    told = re.fullmatch(r'"?sep=(.)"?', first.rstrip("\r\n"), re.IGNORECASE)
    before, header = (2, lines.readline()) if told else (1, first)
    separator, columns = _columns(header, told[1] if told else None)
    _check(columns, file)
    table = csv.reader(lines, delimiter=separator)
    for cells in table:
        known = {name: cell for name, cell in zip(columns, cells, strict=False) if name and cell}
        if known:
            yield table.line_num + before, known


def _columns(header: str, separator: str | None) -> tuple[str, list[str]]:
    """The separator that gives the most known columns, and the columns."""
    readings = [(mark, _names(header, mark)) for mark in ([separator] if separator else _SEPARATORS)]
    return max(readings, key=lambda reading: (len(set(COLUMNS).intersection(reading[1])), len(reading[1])))


def _names(header: str, separator: str) -> list[str]:
    cells = next(csv.reader([header], delimiter=separator), [])
    return [cell.strip().lower().replace(" ", "_") for cell in cells]


def _check(columns: Sequence[str], file: Path) -> None:
    named = [name for name in columns if name]
    unknown = sorted(set(named) - set(COLUMNS))
    missing = [name for name in NEEDED if name not in named]
    if not unknown and not missing and len(named) == len(set(named)):
        return
    against = [
        *([f"lacks {' and '.join(missing)}"] if missing else []),
        *([f"names {', '.join(unknown)}, which is no column"] if unknown else []),
        *(f"names {name} twice" for name in sorted(set(named)) if named.count(name) > 1),
    ]
    raise SetupProblem(
        f"the header of {file} {' and '.join(against)}: its first line names {', '.join(NEEDED)}, and if you like "
        f"{', '.join(name for name in COLUMNS if name not in NEEDED)}"
    )
