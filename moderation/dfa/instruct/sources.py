"""The table of `sources.toml`: the terms of each source, and which bona fide faces stand beside which forged ones."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("sources.toml")
#: The terms of a folder that the table does not name.
UNKNOWN_TERMS = "terms unknown: do not share what is made of it"


@dataclass(frozen=True)
class Source:
    """One folder of labelled pictures."""

    folder: str
    terms: str
    #: A finer name by how the words of the `origin` column begin. Empty: the folder is one origin.
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    #: Origins that mix resolutions by label and are reduced to one before use.
    tight: tuple[str, ...] = ()

    def origin(self, words: str) -> str:
        """The origin of a picture, from its row's words: "ifg_gan_faces/celebahq", or the folder."""
        for beginning, name in self.origins.items():
            if words.startswith(beginning):
                return f"{self.folder}/{name}"
        return self.folder

    def is_tight(self, origin: str) -> bool:
        return origin.removeprefix(f"{self.folder}/") in self.tight


@dataclass(frozen=True, eq=False)
class KindOfTwo:
    """Where a forged face comes from, and the bona fide one beside it."""

    name: str
    #: How often it is drawn, beside the shares of the others.
    share: float
    #: The origin of the forged face. None when the lab makes it.
    forged: str | None = None
    #: Origins whose bona fide faces stand beside it.
    beside: tuple[str, ...] = ()
    #: The bona fide face is the one that the forged was made of.
    paired: bool = False
    #: So it is, pixel for pixel: the difference is the mask.
    aligned: bool = False
    #: For the lab: how often a bona fide face of each source is forged.
    lab: Mapping[str, float] = field(default_factory=dict[str, float])


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def source(folder: str) -> Source:
    """What the table says of a folder."""
    known = _table()["sources"].get(folder)
    if known is None:
        return Source(folder, UNKNOWN_TERMS)
    return Source(folder, known["terms"], known.get("origins", {}), tuple(known.get("tight", ())))


@cache
def kinds_of_two() -> tuple[KindOfTwo, ...]:
    return tuple(_kind(row) for row in _table()["twos"])


def _kind(row: Mapping[str, Any]) -> KindOfTwo:
    fields: dict[str, Any] = {**row, "beside": tuple(row.get("beside", ()))}
    fields["paired"] = bool(row.get("paired") or row.get("aligned"))
    return KindOfTwo(**fields)
