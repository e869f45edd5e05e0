"""What people decided, as data to learn from: the faces that `bonafide export feedback` tells of, cut out and sorted.

Whoever saw the verdict first was led by it; whoever judged blind was not. So pictures that anybody judged blind are
never trained on: by the blind label half of them calibrate and half of them test. The same bytes stand on one side
only, and of several decisions about them the newest counts.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from moderation.analysis import Box, Face, Label
from moderation.cases import ImageRef
from moderation.dfa.gpt.pixels import Picture, crop_face, decode_picture
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
    #: Neither trained on nor judged by: somebody judged them blind and somebody else decided, or said "cannot tell", or
    #: the picture has several faces and the label of the whole says of none that it is the one.
    held_back: int
    #: Faces whose picture is gone or cannot be read, by code.
    lost: Mapping[str, int] = field(default_factory=dict[str, int])


def collect(
    feedback: Path,
    out: Path,
    fetch: Callable[[ImageRef], bytes],
    *,
    size: int,
    decode: Callable[[bytes], Picture] = decode_picture,
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
        decode: as the worker decodes.
        parallel: pictures at once.
        progress: told how many faces were looked at.
    """
    records = _read(feedback)
    newest = _newest(records)
    blind = {_digest(record) for record in records if record["facts"]["judged_blind"]}
    placed = [(record, side) for record in newest if (side := _side(record, blind)) is not None]
    sides: dict[str, list[tuple[Record, str]]] = {"train": [], "calibration": [], "test": []}
    lost = Counter[str]()
    (out / "images").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(parallel) as threads:
        cut = partial(_cut, out=out, fetch=fetch, size=size, decode=decode)
        codes = threads.map(cut, [record for record, _ in placed])
        for done, ((record, side), code) in enumerate(zip(placed, codes, strict=True), start=1):
            if code is None:
                sides[side].append((record, _image(record, size)))
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
        # Not `splitlines`: what people wrote may hold other ends of lines than this one.
        lines = feedback.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines if line.strip()]
        for record in records:
            _ = record["id"], record["conversations"], _digest(record), record["facts"]["judged_blind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupProblem(
            f"{feedback} does not hold the lines of `bonafide export feedback`: {error!r}"
        ) from error
    return records


def _digest(record: Record) -> str:
    """Of the picture's bytes, in hexadecimal."""
    return record["facts"]["sha256"]


def _newest(records: Sequence[Record]) -> list[Record]:
    """Of each picture the faces of the newest decision: exports are in the order of time."""
    newest = {_digest(record): record["facts"]["decision"] for record in records}
    return [record for record in records if record["facts"]["decision"] == newest[_digest(record)]]


def _side(record: Record, blind: set[str]) -> str | None:
    """What a face is for. None: it is held back."""
    if _digest(record) not in blind:
        return "train"
    if record["facts"]["faces"] > 1 or record["facts"]["blind_label"] not in (
        Label.DEEPFAKE,
        Label.BONA_FIDE,
    ):
        return None
    return "calibration" if int(_digest(record)[:8], 16) < 2**31 else "test"


def _cut(
    record: Record,
    *,
    out: Path,
    fetch: Callable[[ImageRef], bytes],
    size: int,
    decode: Callable[[bytes], Picture],
) -> str | None:
    """Write one face as the worker cut it. Returns why there is none."""
    file, facts = out / _image(record, size), record["facts"]
    if file.is_file():
        return None
    try:
        data = fetch(ImageRef(facts["bucket"], facts["key"], facts["version_id"]))
        if sha256(data).hexdigest() != facts["sha256"]:
            return CHANGED
        picture = decode(data)
    except ImageRejected as error:
        return error.code
    crop = crop_face(picture, Face(Box(*facts["box"]), confidence=1.0), size)
    # Written beside and moved: half a picture is never taken for a whole one.
    part = file.with_suffix(".part")
    Image.fromarray(crop).save(part, "PNG")
    part.replace(file)
    return None


def _image(record: Record, size: int) -> str:
    """The name says what was cut: the same name holds the same pixels, whatever was decided since."""
    cut = f"{_digest(record)} {record['facts']['box']} {size}"
    return f"images/{sha256(cut.encode()).hexdigest()[:32]}.png"


def _write(out: Path, sides: Mapping[str, Sequence[tuple[Record, str]]]) -> None:
    taught = [
        {"id": record["id"], "image": image, "conversations": record["conversations"]}
        for record, image in sides["train"]
    ]
    (out / "conversations.json").write_text(
        json.dumps(taught, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    for side in ("calibration", "test"):
        with (out / f"{side}.csv").open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([COLUMNS, *(_row(*one, side) for one in sides[side])])


def _row(record: Record, image: str, side: str) -> tuple[str, ...]:
    facts = record["facts"]
    technique = facts["blind_technique"] if facts["blind_label"] == Label.DEEPFAKE else None
    return (
        *(image, facts["blind_label"], technique or "", facts["source"], facts["sha256"]),
        *(side, "yes", facts["case"], facts["bundle"]),
    )
