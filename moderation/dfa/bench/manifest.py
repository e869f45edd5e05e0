"""The pictures to score, with known labels, from a manifest of `bonafide dfa instruct` or from a labels.csv."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Touch, read_touches
from moderation.dfa.gpt.grounding.known import description
from moderation.dfa.gpt.prompts import load_prompts
from moderation.errors import SetupProblem

#: Labels as manifests and other people's tables write them.
_LABELS: Mapping[str, bool] = {"deepfake": True, "fake": True, "bona_fide": False, "real": False}
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
        items = list(read(file))
    except (KeyError, ValueError) as error:
        raise SetupProblem(f"{file} cannot be read as a manifest: {error!r}") from error
    files = (path for item in items for path in (item.file, item.mask) if path is not None)
    missing = next((path for path in files if not path.is_file()), None)
    if missing is not None:
        raise SetupProblem(f"{file} names {missing}, which is not there.")
    return items


def sources_named(file: Path) -> set[str]:
    """The sources that a readable manifest names. A CSV without that column names none."""
    if file.suffix.lower() != ".csv":
        return {item.source for item in read_manifest(file)}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        return {row["source"] for row in csv.DictReader(lines) if row.get("source")}


def _from_jsonl(file: Path) -> Iterator[Item]:
    for line in file.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        deepfake = _is_deepfake(row["label"])
        facts = row.get("facts")
        touches = None if facts is None else read_touches(facts)
        yield Item(
            file=file.parent / row["image"],
            deepfake=deepfake,
            technique=Technique(row["technique"]) if row.get("technique") else None,
            source=_source(row["origin"]),
            group=row["group"],
            video=row.get("video"),
            split=row["split"],
            crop=row.get("crop", True),
            regions=None if touches is None else frozenset(touch.region.value for touch in touches),
            description=row.get("description") or _worded(touches, row["prompts"]),
            mask=file.parent / row["mask"] if row.get("mask") else None,
        )


def _is_deepfake(label: str) -> bool:
    if label not in _LABELS:
        raise ValueError(f"the label {label!r} is none of {', '.join(_LABELS)}")
    return _LABELS[label]


def _source(origin: str) -> str:
    """The source without the recipe: "lab/FS/self_blend" -> "lab/FS"."""
    return "/".join(origin.split("/")[:2])


def _worded(touches: Sequence[Touch] | None, prompts: int) -> str | None:
    """The description made from these facts, for older manifests, which do not hold it."""
    return None if touches is None else description(touches, load_prompts(prompts))


def _from_csv(file: Path) -> Iterator[Item]:
    with file.open(newline="", encoding="utf-8-sig") as lines:  # Excel begins "CSV UTF-8" with a mark
        for row in csv.DictReader(lines):
            deepfake = _is_deepfake(row["label"])
            technique = row.get("technique") or row.get("type") or ""
            yield Item(
                file=file.parent / row["file"],
                deepfake=deepfake,
                technique=Technique(technique) if technique in set(Technique) and deepfake else None,
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
    return frozenset(Region(word).value for word in named)


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
