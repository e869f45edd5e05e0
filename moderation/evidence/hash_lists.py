"""Lists of PDQ hashes as files: CSV, and the lines that Meta's Hasher-Matcher-Actioner exchanges.

CSV    hash,reference    with or without a header; other columns are ignored
HMA    pdq HASH          python-threatexchange's "local file" exchange, one signal a line; it carries no reference
"""

import csv
import enum
from collections.abc import Iterable, Iterator

from moderation.errors import RequestRefused
from moderation.likeness import from_hex, to_hex

#: Characters of a reference that are kept.
REFERENCE_LENGTH = 200


class HashListForm(enum.StrEnum):
    CSV = "csv"
    HMA = "hma"


def read_hashes(lines: Iterable[str]) -> Iterator[tuple[int, str | None]]:
    """The hashes with their references, from either form. Raise RequestRefused with the line.

    Other kinds of HMA signals are ignored: they are not about pictures.
    """
    for number, line in enumerate(lines, start=1):
        said = line.removeprefix("\ufeff").strip()
        kind, _, signal = said.partition(" ")
        if not said or said.startswith("#"):
            continue
        if signal and "," not in kind:
            if kind.lower() == "pdq":
                yield _hash(signal, number), None
            continue
        cells = next(csv.reader([said]))
        if number == 1 and cells[0].strip().lower() in ("hash", "pdq", "indicator", "signal"):
            continue
        reference = cells[1].strip() if len(cells) > 1 else ""
        yield _hash(cells[0], number), reference[:REFERENCE_LENGTH] or None


def write_hashes(hashes: Iterable[tuple[int, str | None]], form: HashListForm) -> Iterator[str]:
    """Lines without line ends. Reading them gives the same hashes; HMA's form loses the references."""
    if form is HashListForm.CSV:
        yield "hash,reference"
    for value, reference in hashes:
        yield (
            f"pdq {to_hex(value)}"
            if form is HashListForm.HMA
            else f"{to_hex(value)},{_cell(reference or '')}"
        )


def _hash(text: str, number: int) -> int:
    try:
        return from_hex(text.strip().lower())
    except ValueError as error:
        raise RequestRefused(f"line {number}: {error}") from error


def _cell(text: str) -> str:
    """A cell, quoted if CSV needs it."""
    return f'"{text.replace(chr(34), 2 * chr(34))}"' if set(text) & set(',"\r\n') else text
