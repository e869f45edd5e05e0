"""The pictures to score, with known labels, from a manifest of `bonafide dfa instruct` or from a labels.csv."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moderation.analysis import Label, Region, Technique
from moderation.dfa.gpt.grounding.facts import Touch, read_touches
from moderation.dfa.gpt.grounding.known import description
from moderation.dfa.gpt.prompts import load_prompts
from moderation.errors import SetupProblem

_TRUE = {"1", "true", "yes"}


@dataclass(frozen=True)
class Item:
    """One picture of a manifest and its known facts."""

    file: Path
    deepfake: bool
    #: None when bona fide or unknown.
    technique: Technique | None
    #: A data set, or a kind of the lab: "dfdc_faces224", "lab/FS".
    source: str
    #: Pictures of one group are resampled together: a pair, a person.
    group: str
    #: Frames of one video are also judged together. None for a still picture.
    video: str | None
    split: str
    #: True when the file is already a face crop. Otherwise the face is searched for, as in the worker.
    crop: bool
    #: The touched regions. Empty when bona fide, None when unknown.
    regions: frozenset[str] | None
    #: The artifact description to compare a rationale with. None when there is none.
    description: str | None
    #: A grey picture of the same size, white where this one was forged. None when unknown, or the same everywhere.
    mask: Path | None = None


def read_manifest(file: Path) -> list[Item]:
    """The pictures of a manifest.jsonl or of a CSV. Raise SetupProblem when it cannot be read.

    A CSV has the columns `file` (relative to it) and `label` (deepfake or bona_fide), and may have `technique`,
    `source`, `group`, `video`, `split`, `crop` (yes when the picture is a face crop), `regions` ("mouth;nose", or
    "none" for an inspected bona fide face), `description` and `mask` (a picture, relative to the CSV).
    """
    if not file.is_file():
        raise SetupProblem(
            f"{file} is missing: give a manifest.jsonl or a CSV with the columns file and label."
        )
    read = _from_csv if file.suffix.lower() == ".csv" else _from_jsonl
    try:
        return list(read(file))
    except UnicodeDecodeError as error:
        raise SetupProblem(f"{file} is not UTF-8 text: a spreadsheet saves it as “CSV UTF-8”.") from error


def sources_named(file: Path) -> set[str]:
    """The sources that a readable manifest names. A CSV without that column names none."""
    if file.suffix.lower() != ".csv":
        return {item.source for item in read_manifest(file)}
    return {row["source"] for _, row in _rows(file) if row.get("source")}


def _from_jsonl(file: Path) -> Iterator[Item]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            yield _with_files(_json_item(json.loads(line), file.parent))
        except json.JSONDecodeError as error:
            raise SetupProblem(
                f"{file}, line {number} is not JSON: {error}; the name of a table ends in .csv."
            ) from error
        except KeyError as error:
            raise SetupProblem(
                f"{file}, line {number} lacks `{error.args[0]}`, which `bonafide dfa instruct` writes."
            ) from error
        except ValueError as error:
            raise SetupProblem(f"{file}, line {number}, {error}") from error


def _json_item(row: dict[str, Any], folder: Path) -> Item:
    facts = row.get("facts")
    touches = None if facts is None else read_touches(facts)
    return Item(
        file=folder / row["image"],
        deepfake=_is_deepfake(row["label"]),
        technique=_technique(row.get("technique") or ""),
        source=_source(row["origin"]),
        group=row["group"],
        video=row.get("video"),
        split=row["split"],
        crop=row.get("crop", True),
        regions=None if touches is None else frozenset(touch.region.value for touch in touches),
        description=row.get("description") or _worded(touches, row["prompts"]),
        mask=folder / row["mask"] if row.get("mask") else None,
    )


def _with_files(item: Item) -> Item:
    """The item. Raise ValueError when its picture or mask is not there."""
    for name, path in (("file", item.file), ("mask", item.mask)):
        if path is not None and not path.is_file():
            raise ValueError(f"{name}: {path} is not there.")
    return item


def _is_deepfake(word: str) -> bool:
    try:
        return Label.told_by(word) is Label.DEEPFAKE
    except ValueError as error:
        raise ValueError(f"label: {error}") from error


def _technique(word: str) -> Technique | None:
    """None when the field is empty."""
    if not word.strip():
        return None
    if word.strip().upper() not in set(Technique):
        raise ValueError(
            f"technique: {word!r} is none of {', '.join(Technique)}; leave it empty if it is not known."
        )
    return Technique(word.strip().upper())


def _source(origin: str) -> str:
    """The source without the recipe: "lab/FS/self_blend" -> "lab/FS"."""
    return "/".join(origin.split("/")[:2])


def _worded(touches: Sequence[Touch] | None, prompts: int) -> str | None:
    """The description made from these facts, for older manifests, which do not hold it."""
    return None if touches is None else description(touches, load_prompts(prompts))


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row with its number as a spreadsheet counts, its cells by column; commas, semicolons or tabs separate."""
    with file.open(newline="", encoding="utf-8-sig") as lines:  # Excel begins "CSV UTF-8" with a mark
        header = lines.readline()
        separator = max(",;\t", key=header.count)
        names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        if not {"file", "label"} <= set(names):
            named = ", ".join(names) or "nothing"
            raise SetupProblem(f"{file}, row 1 must name the columns file and label; it names {named}.")
        try:
            for number, cells in enumerate(csv.reader(lines, delimiter=separator), start=2):
                if cells:
                    yield number, dict(zip(names, cells, strict=False))
        except csv.Error as error:
            raise SetupProblem(f"{file} cannot be read as CSV: {error}") from error


def _from_csv(file: Path) -> Iterator[Item]:
    for number, row in _rows(file):
        try:
            yield _with_files(_csv_item(row, file))
        except ValueError as error:
            raise SetupProblem(f"{file}, row {number}, column {error}") from error


def _csv_item(row: Mapping[str, str], file: Path) -> Item:
    if not row.get("file"):
        raise ValueError("file: it is empty; name a picture, relative to the CSV.")
    deepfake = _is_deepfake(row.get("label", ""))
    # The tables of `dfa instruct` have a column `type`, in which anything may stand.
    kind = row.get("type") or ""
    technique = _technique(row.get("technique") or (kind if kind in set(Technique) else ""))
    return Item(
        file=file.parent / row["file"],
        deepfake=deepfake,
        technique=technique if deepfake else None,
        source=row.get("source") or file.parent.name or file.stem,
        group=row.get("group") or row.get("paired_real") or row["file"],
        video=row.get("video") or None,
        split=row.get("split") or "test",
        crop=(row.get("crop") or "").lower() in _TRUE,
        regions=_regions(row.get("regions") or ""),
        description=row.get("description") or None,
        mask=file.parent / row["mask"] if row.get("mask") else None,
    )


def _regions(words: str) -> frozenset[str] | None:
    """The regions in "mouth;nose". None when the field is empty."""
    if not words.strip():
        return None
    named = [word.strip() for word in words.split(";") if word.strip() not in {"", "none"}]
    for word in named:
        if word not in set(Region):
            raise ValueError(
                f"regions: {word!r} is none of {', '.join(Region)}; several are joined by semicolons."
            )
    return frozenset(named)


def of_split(items: Iterable[Item], split: str) -> list[Item]:
    """The items of one split. Raise SetupProblem when it lacks one of the labels."""
    everything = list(items)
    kept = [item for item in everything if item.split == split]
    if {item.deepfake for item in kept} != {True, False}:
        splits = sorted({item.split for item in everything})
        raise SetupProblem(
            f"The split {split!r} does not hold both deepfakes and bona fide pictures; the splits are {splits}. "
            "Name another by --split."
        )
    return kept


def sampled(items: Sequence[Item], most: int, *, seed: int) -> list[Item]:
    """About `most` items in whole groups, so that pairs stay together, one group of each kind in turn."""
    if most >= len(items):
        return list(items)
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item)
    kinds: dict[tuple[tuple[str, bool], ...], list[str]] = {}
    names = sorted(groups)
    for index in np.random.default_rng(seed).permutation(len(names)):
        kind = tuple(sorted({(item.source, item.deepfake) for item in groups[names[index]]}))
        kinds.setdefault(kind, []).append(names[index])
    queues = [kinds[kind] for kind in sorted(kinds)]
    kept: list[Item] = []
    while queues and len(kept) < most:
        for queue in queues:
            if len(kept) < most:
                kept.extend(groups[queue.pop()])
        queues = [queue for queue in queues if queue]
    return kept
