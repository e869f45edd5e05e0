"""What people decided, as data to learn from: the faces that `bonafide export feedback` tells of, cut out and sorted.

Whoever saw the verdict first was led by it; whoever judged blind was not. So faces that were judged blind are never
trained on: half of them calibrate, half of them test. The same bytes stand on one side only, and of several decisions
about them the newest counts.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from moderation.analysis import Box, Face, Label
from moderation.cases import ImageRef
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.errors import ImageRejected, SetupProblem

#: Counted beside the codes of pictures that cannot be read: the key holds other bytes than those that were judged.
CHANGED = "image_changed"
#: Columns of the tables: those of a manifest (`bench/manifest.py`), and whose verdict people looked at.
COLUMNS = ("file", "label", "technique", "source", "group", "split", "crop", "case", "bundle")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Collected:
    """Faces by what they are for, and what was left out."""

    train: int
    calibration: int
    test: int
    #: Faces with a newer decision about the same bytes.
    repeated: int
    #: Judged blind as "cannot tell", or about bytes that somebody else judged blind.
    held_back: int
    #: Faces whose picture is gone or cannot be read, by code.
    lost: Mapping[str, int] = field(default_factory=dict[str, int])


def collect(
    feedback: Path,
    out: Path,
    fetch: Callable[[ImageRef], bytes],
    *,
    size: int,
    parallel: int = 8,
    progress: Callable[[int], None] = lambda _: None,
) -> Collected:
    """Cut the faces out of their pictures and write what trains, calibrates and tests. Goes on where it stopped.

    Writes `images/` (PNG, so that the pixels are those the worker gave the model), `conversations.json` for training,
    `calibration.csv` for `calibrate` and `test.csv` for the bench. Raise SetupProblem when `feedback` is something
    else; what `fetch` raises about a picture is counted, whatever else it raises ends the run.

    Args:
        feedback: JSON lines of `bonafide export feedback`.
        out: the folder to fill.
        fetch: gives the bytes of a picture; called from several threads.
        size: side of the crops in pixels, that of the model that will learn.
        parallel: pictures at once.
        progress: told how many faces were looked at.
    """
    records = _read(feedback)
    newest = _newest(records)
    blind = {_digest(record) for record in newest if record["facts"]["blind_label"] is not None}
    placed = [(record, side) for record in newest if (side := _side(record, blind)) is not None]
    sides: dict[str, list[Record]] = {"train": [], "calibration": [], "test": []}
    lost = Counter[str]()
    (out / "images").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(parallel) as threads:
        cut = partial(_cut, out=out, fetch=fetch, size=size)
        codes = threads.map(cut, [record for record, _ in placed])
        for done, ((record, side), code) in enumerate(zip(placed, codes, strict=True), start=1):
            if code is None:
                sides[side].append(record)
            else:
                lost[code] += 1
            progress(done)
    _write(out, sides)
    return Collected(
        **{side: len(kept) for side, kept in sides.items()},
        repeated=len(records) - len(newest),
        held_back=len(newest) - len(placed),
        lost=dict(lost),
    )


def _read(feedback: Path) -> list[Record]:
    try:
        records = [json.loads(line) for line in feedback.read_text(encoding="utf-8").splitlines()]
        for record in records:
            _ = record["id"], record["conversations"], _digest(record), record["facts"]["blind_label"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupProblem(
            f"{feedback} does not hold the lines of `bonafide export feedback`: {error!r}"
        ) from error
    return records


def _digest(record: Record) -> str:
    """Of the picture's bytes, in hexadecimal."""
    return record["facts"]["sha256"]


def _newest(records: Iterable[Record]) -> list[Record]:
    """One record for each face of each picture: exports are in the order of time."""
    return list({(_digest(record), tuple(record["facts"]["box"])): record for record in records}.values())


def _side(record: Record, blind: set[str]) -> str | None:
    """What a face is for. None: it was judged blind in vain, or its bytes are kept for judging by."""
    if _digest(record) not in blind:
        return "train"
    if record["facts"]["blind_label"] not in (Label.DEEPFAKE, Label.BONA_FIDE):
        return None
    return "calibration" if int(_digest(record)[:8], 16) < 2**31 else "test"


def _cut(record: Record, *, out: Path, fetch: Callable[[ImageRef], bytes], size: int) -> str | None:
    """Write one face as the worker cut it. Returns why there is none."""
    file, facts = out / _image(record), record["facts"]
    if _is_cut(file, size):
        return None
    try:
        data = fetch(ImageRef(facts["bucket"], facts["key"], facts["version_id"]))
        if sha256(data).hexdigest() != facts["sha256"]:
            return CHANGED
        picture = decode_picture(data)
    except ImageRejected as error:
        return error.code
    crop = crop_face(picture, Face(Box(*facts["box"]), confidence=1.0), size)
    # Written beside and moved: half a picture is never taken for a whole one.
    part = file.with_suffix(".part")
    Image.fromarray(crop).save(part, "PNG")
    part.replace(file)
    return None


def _is_cut(file: Path, size: int) -> bool:
    if not file.is_file():
        return False
    with Image.open(file) as image:
        return image.size == (size, size)


def _image(record: Record) -> str:
    return f"images/{record['id']}.png"


def _write(out: Path, sides: Mapping[str, Sequence[Record]]) -> None:
    taught = [
        {"id": record["id"], "image": _image(record), "conversations": record["conversations"]}
        for record in sides["train"]
    ]
    (out / "conversations.json").write_text(
        json.dumps(taught, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    for side in ("calibration", "test"):
        with (out / f"{side}.csv").open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([COLUMNS, *(_row(record, side) for record in sides[side])])


def _row(record: Record, side: str) -> tuple[str, ...]:
    facts = record["facts"]
    technique = facts["technique"] if facts["blind_label"] == Label.DEEPFAKE else None
    # The group is the picture: what is judged of its faces is resampled together.
    return (
        *(_image(record), facts["blind_label"], technique or "", facts["source"], facts["sha256"]),
        *(side, "yes", facts["case"], facts["bundle"]),
    )
