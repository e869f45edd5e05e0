"""The table of sources: each source's terms, and which bona fide faces go with which forged ones.

`sources.toml` is shipped. A file of the same format may be read beside it (`--sources`). That file adds sources and
kinds of two and replaces none, so nobody's terms change unnoticed.
"""

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moderation.errors import SetupProblem

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


@dataclass(frozen=True, eq=False)
class Table:
    """All sources and kinds of two: the shipped ones, and those of a file that was read beside them."""

    #: Where a new source is written.
    file: Path
    sources: Mapping[str, Source]
    kinds: tuple[KindOfTwo, ...]
    #: The text of the file that was read beside the shipped one. None without such a file.
    own: str | None = None
    #: A digest of each table of that file, by its heading.
    digests: Mapping[str, str] = field(default_factory=dict[str, str])

    def source(self, folder: str) -> Source:
        """The table's entry for a folder. Without one, its terms are unknown."""
        return self.sources.get(folder) or Source(folder, UNKNOWN_TERMS)


def read_table(own: Path | None) -> Table:
    """The shipped table, and beside it a file of own sources. Raise SetupProblem when that file cannot be used."""
    return SHIPPED if own is None else _beside(SHIPPED, own)


def _beside(shipped: Table, file: Path) -> Table:
    try:
        text = file.read_text(encoding="utf-8-sig")
        told = tomllib.loads(text)
    except OSError as error:
        raise SetupProblem(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise SetupProblem(f"{file} is not TOML: {error}.") from error
    for key in told.keys() - {"sources", "twos"}:
        raise SetupProblem(f"{file}, {key}: only the tables [sources.FOLDER] and [[twos]] are allowed.")
    if not _tables(told.get("sources", {})) or not _tables(_numbered(told.get("twos", []))):
        raise SetupProblem(
            f"{file}: write each source as [sources.FOLDER], and each kind of two as [[twos]]."
        )
    digests: dict[str, str] = {}
    sources, kinds = dict(shipped.sources), list(shipped.kinds)
    for folder, row in told.get("sources", {}).items():
        where = f"[sources.{folder}]"
        _check(f"{file}, {where}", row, _OF_SOURCE, needed=["terms"])
        if folder in sources:
            raise SetupProblem(
                f"{file}, {where}: a shipped source has this name; give the folder another one."
            )
        origins, tight = row.get("origins", {}), tuple(row.get("tight", ()))
        _check_names(f"{file}, {where}, tight", tight, set(origins.values()), "names that origins gives")
        sources[folder] = Source(folder, row["terms"], origins, tight)
        digests[where] = _digest(row)
    places = {f"{each.folder}/{name}" for each in sources.values() for name in each.origins.values()}
    for number, row in enumerate(told.get("twos", []), start=1):
        _check(f"{file}, [[twos]] number {number}", row, _OF_TWO, needed=["name", "share"])
        where = f"[[twos]] {row['name']}"
        if row["name"] in {kind.name for kind in kinds}:
            raise SetupProblem(f"{file}, {where}, name: another kind of two has it; write another name.")
        kinds.append(_kind(f"{file}, {where}", row, {*sources, *places}))
        digests[where] = _digest([number, row])  # what is drawn depends on the order
    return Table(file, sources, tuple(kinds), own=text, digests=digests)


def _kind(where: str, row: Mapping[str, Any], places: set[str]) -> KindOfTwo:
    paired = bool(row.get("paired") or row.get("aligned"))
    if ("lab" in row) == ("forged" in row):
        raise SetupProblem(f"{where}: write either forged or lab.")
    if ("forged" in row) != (paired != ("beside" in row)):
        raise SetupProblem(
            f"{where}: with forged write either beside or paired = true, and with lab neither."
        )
    for key in {"forged", "beside", "lab"} & row.keys():
        named = [row[key]] if key == "forged" else list(row[key])
        _check_names(f"{where}, {key}", named, places, "sources that have a table [sources.FOLDER]")
    fields: dict[str, Any] = {**row, "beside": tuple(row.get("beside", ())), "paired": paired}
    return KindOfTwo(**fields)


def _check(
    where: str, row: Mapping[str, Any], keys: "Mapping[str, _Allowed]", *, needed: Sequence[str]
) -> None:
    for key, value in row.items():
        if key not in keys:
            raise SetupProblem(f"{where}, {key}: there is no such key; allowed are {', '.join(keys)}.")
        words, fits = keys[key]
        if not fits(value):
            written = json.dumps(value, default=str, ensure_ascii=False)
            raise SetupProblem(f"{where}, {key}: {written} is not allowed; write {words}.")
    for key in needed:
        if key not in row:
            raise SetupProblem(f"{where}, {key}: the key is missing; write {keys[key][0]}.")


def _check_names(where: str, names: Sequence[str], allowed: set[str], words: str) -> None:
    for name in names:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise SetupProblem(f"{where}: there is no {name!r}; allowed are {words}: {known}.")


#: What is allowed for a key, in words, and whether a value is.
_Allowed = tuple[str, Callable[[Any], bool]]


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_text, value))


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _tables(value: Any) -> bool:
    return _by_name(value, lambda each: isinstance(each, dict))


def _numbered(value: Any) -> Any:
    return dict(enumerate(value)) if isinstance(value, list) else None


def _by_name(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(fits, value.values()))


_TRUTH: _Allowed = ("true or false", lambda value: isinstance(value, bool))
_OF_SOURCE: Mapping[str, _Allowed] = {
    "terms": ("a text in quotes", _text),
    "origins": (
        'names by the beginning of the column origin, as { "GAN," = "gan" }',
        lambda v: _by_name(v, _text),
    ),
    "tight": ('a list of names that origins gives, as ["gan"]', _texts),
}
_OF_TWO: Mapping[str, _Allowed] = {
    "name": ("a text in quotes", _text),
    "share": ("a number above 0", _share),
    "forged": ('the name of a source, as "mine"', _text),
    "beside": ('a list of names of sources, as ["mine"]', _texts),
    "paired": _TRUTH,
    "aligned": _TRUTH,
    "lab": ("shares above 0 by source, as { mine = 1.0 }", lambda v: bool(v) and _by_name(v, _share)),
}


def _digest(row: object) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()


SHIPPED = replace(_beside(Table(FILE, {}, ()), FILE), own=None, digests={})
