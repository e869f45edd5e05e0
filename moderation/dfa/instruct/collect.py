"""People's decisions as training data: the faces of `bonafide export feedback`, cropped and sorted.

A person who saw the verdict first was led by it; one who judged blind was not. So pictures that anybody judged blind
are never trained on: with their blind label, half of them calibrate and half of them test. Equal bytes are on one side
only, and the newest decision about them counts.
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

#: Counted like the codes of unreadable pictures: the key now holds other bytes than the judged ones.
CHANGED = "image_changed"
#: Columns of the tables: those of a manifest (`bench/manifest.py`), the case, and the bundle that gave the verdict.
COLUMNS = ("file", "label", "technique", "source", "group", "split", "crop", "case", "bundle")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Collected:
    """Faces by their use, and the faces left out."""

    train: int
    calibration: int
    test: int
    #: Faces with a newer decision about the same bytes.
    repeated: int
    #: Unused faces of pictures that somebody judged blind: the newest decision was not blind or says "cannot tell", or
    #: the picture has several faces but one label.
    held_back: int
    #: Faces whose picture is gone or unreadable, by code.
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
    """Crop the faces and write data for training, calibration and test. Continues where it stopped.

    Writes `images/` (PNG, with the pixels that the worker gave the model), `conversations.json` for training,
    `calibration.csv` for `calibrate` and `test.csv` for the bench. Raise SetupProblem when `feedback` has another
    format. An ImageRejected of `fetch` is counted; any other error ends the run.

    Args:
        feedback: JSON lines of `bonafide export feedback`.
        out: the folder to fill.
        fetch: returns a picture's bytes; called from several threads.
        size: side of the crops in pixels: the input size of the model to train.
        decode: decodes a file as the worker does.
        parallel: pictures at once.
        progress: called with the number of finished faces.
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
        # Not `splitlines`: people's texts may hold other line separators.
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
    """The sha256 of the picture's bytes, in hexadecimal."""
    return record["facts"]["sha256"]


def _newest(records: Sequence[Record]) -> list[Record]:
    """The faces of the newest decision about each picture. Exports are in the order of time."""
    newest = {_digest(record): record["facts"]["decision"] for record in records}
    return [record for record in records if record["facts"]["decision"] == newest[_digest(record)]]


def _side(record: Record, blind: set[str]) -> str | None:
    """The use of a face: train, calibration or test. None: it is held back."""
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
    """Write one face, cropped as in the worker. Return the code of a failure, or None."""
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
    # Written to another file and renamed, so that a partial picture is never used.
    part = file.with_suffix(".part")
    Image.fromarray(crop).save(part, "PNG")
    part.replace(file)
    return None


def _image(record: Record, size: int) -> str:
    """The file of a crop. Equal names hold equal pixels, independent of later decisions."""
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
            csv.writer(lines).writerows(
                [COLUMNS, *(_row(record, image, side) for record, image in sides[side])]
            )


def _row(record: Record, image: str, side: str) -> tuple[str, ...]:
    facts = record["facts"]
    technique = facts["blind_technique"] if facts["blind_label"] == Label.DEEPFAKE else None
    return (
        image, facts["blind_label"], technique or "", facts["source"], facts["sha256"], side, "yes", facts["case"],
        facts["bundle"],
    )  # fmt: skip
