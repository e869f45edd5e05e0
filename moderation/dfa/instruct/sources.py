"""The table of `sources.toml`: each source's terms, and which bona fide faces go with which forged ones."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("sources.toml")
#: The terms of a folder that is not in the table.
UNKNOWN_TERMS = "terms unknown: do not share what is made of it"


@dataclass(frozen=True)
class Source:
    """One folder of labelled pictures."""

    folder: str
    terms: str
    #: From prefixes of the `origin` column to finer names. Empty: the folder is one origin.
    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    #: Origins whose resolution depends on the label. They are reduced to one size before use.
    tight: tuple[str, ...] = ()

    def origin(self, words: str) -> str:
        """The origin of a picture, from its `origin` column: "ifg_gan_faces/celebahq", or the folder."""
        for beginning, name in self.origins.items():
            if words.startswith(beginning):
                return f"{self.folder}/{name}"
        return self.folder

    def is_tight(self, origin: str) -> bool:
        return origin.removeprefix(f"{self.folder}/") in self.tight


@dataclass(frozen=True, eq=False)
class KindOfTwo:
    """The origins of a forged face and of its bona fide partner."""

    name: str
    #: How often it is drawn, relative to the other shares.
    share: float
    #: The origin of the forged face. None when the lab makes it.
    forged: str | None = None
    #: Origins of its bona fide partners.
    beside: tuple[str, ...] = ()
    #: The forged face was made from its bona fide partner.
    paired: bool = False
    #: Paired pixel for pixel: the difference is the mask.
    aligned: bool = False
    #: For the lab: how often faces of each source are forged, relative to the others.
    lab: Mapping[str, float] = field(default_factory=dict[str, float])


@cache
def _table() -> Mapping[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def source(folder: str) -> Source:
    """The table's entry for a folder. Without one, its terms are unknown."""
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
