"""How often faces are found, at what cost, and whether the gate treats forged and bona fide faces alike.

    python benchmarks/faces.py FOLDER [--each 200] [--portraits congress_portraits] [--json]

FOLDER holds one folder per source: pictures directly in it, or in `real/` and `fake/` below it. From the source
named by --portraits further pictures are made: faces of known size on a large canvas, tight crops, blurred ones, and
pictures that were turned.
With dlib installed (`pip install dlib-bin`) its frontal detector is measured on the same pictures.
"""

import argparse
import importlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from moderation.analysis import Abstain
from moderation.dfa.gpt.faces import find_faces, unjudgeable
from moderation.dfa.gpt.mtcnn import nets
from moderation.dfa.gpt.pixels import Picture, crop_face, decode_picture

#: Longer side of the box in pixels, on a canvas of 800 × 600.
SMALL_FACES = (20, 32, 48, 64, 96)
#: Standard deviation of the blur, as a share of the box's shorter side.
BLURS = (0.01, 0.02, 0.04, 0.06, 0.08)


#: Degrees clockwise.
TURNS = (20, 45, 90, 135, 180, 225, 270, 315)


@dataclass(frozen=True)
class Row:
    pictures: str
    n: int
    #: Share of the pictures in which a face was found.
    recall: float
    #: Share of the pictures whose largest face was called too small or too blurred.
    too_small: float
    too_blurred: float
    #: Share of the pictures whose largest face was called unlike what models are trained on.
    unlike: float
    #: CPU seconds per picture, on one thread.
    seconds: float
    #: Share in which dlib's frontal detector found a face, and its CPU seconds. None when it is not installed.
    dlib_recall: float | None = None
    dlib_seconds: float | None = None


def main() -> None:
    arguments = _arguments()
    if arguments.folder is None:
        print("No folder of pictures was given: nothing is measured.")
        return
    torch.set_num_threads(1)
    nets()  # so that no picture pays for loading them
    other = _dlib()
    rows: list[Row] = []
    _print_head()
    for name, pictures in _everything(arguments.folder, arguments.each, arguments.portraits):
        rows.append(_measured(name, pictures, other))
        _print_row(rows[-1])
    if arguments.json:
        print(json.dumps({"faces": [asdict(row) for row in rows]}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall and cost of the face finder.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--each", type=int, default=200, help="pictures per source and label")
    parser.add_argument(
        "--portraits", default="congress_portraits", help="the source that further ones are made of"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


# --- pictures ---


def _everything(folder: Path, each: int, portraits: str) -> Iterator[tuple[str, list[Picture]]]:
    for name, paths in _sources(folder):
        chosen = random.Random(0).sample(paths, min(each, len(paths)))
        pictures = [decode_picture(path.read_bytes()) for path in chosen]
        yield name, pictures
        if name == portraits:
            yield from _made_of(pictures)


def _sources(folder: Path) -> list[tuple[str, list[Path]]]:
    found = {
        str(below.relative_to(folder)): sorted(below.glob("*.jpg"))
        for below in sorted(folder.rglob("*"))
        if below.is_dir()
    }
    return [(name, paths) for name, paths in found.items() if paths]


def _made_of(portraits: Sequence[Picture]) -> Iterator[tuple[str, list[Picture]]]:
    for side in SMALL_FACES:
        yield f"  face of {side} px", [made for each in portraits if (made := _small(each, side))]
    for share in BLURS:
        yield f"  blur of {share:.0%}", [made for each in portraits if (made := _blurred(each, share))]
    yield "  box only", [made for each in portraits if (made := _tight(each))]
    for degrees in TURNS:
        yield f"  turned by {degrees}", [_turned(each, degrees) for each in portraits]


def _small(portrait: Picture, side: int) -> Picture | None:
    """The portrait shrunk until its face has this size, off the centre of a canvas of its mean colour."""
    faces = find_faces(portrait)
    if not faces:
        return None
    by = side / max(faces[0].box.width, faces[0].box.height)
    image = Image.fromarray(portrait.pixels)
    shrunk = image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)
    colour = tuple(int(each) for each in portrait.pixels.reshape(-1, 3).mean(axis=0))
    canvas = Image.new("RGB", (800, 600), colour)
    canvas.paste(shrunk, (477, 191))
    return Picture(np.array(canvas), portrait.facts)


def _blurred(portrait: Picture, share: float) -> Picture | None:
    faces = find_faces(portrait)
    if not faces:
        return None
    radius = share * min(faces[0].box.width, faces[0].box.height)
    blurred = Image.fromarray(portrait.pixels).filter(ImageFilter.GaussianBlur(radius))
    return Picture(np.array(blurred), portrait.facts)


def _tight(portrait: Picture) -> Picture | None:
    faces = find_faces(portrait)
    return Picture(crop_face(portrait, faces[0], 224, margin=1.0), portrait.facts) if faces else None


def _turned(portrait: Picture, degrees: int) -> Picture:
    """Turned with its frame, the corners filled by what lies at the edges."""
    reach = max(portrait.pixels.shape) // 4
    wide = np.pad(portrait.pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    turned = Image.fromarray(wide).rotate(-degrees, Image.Resampling.BICUBIC)
    return Picture(np.array(turned), portrait.facts)


# --- measuring ---


def _measured(name: str, pictures: Sequence[Picture], other: Callable[[Picture], bool] | None) -> Row:
    started = time.thread_time()
    found = [find_faces(picture) for picture in pictures]
    seconds = (time.thread_time() - started) / len(pictures)
    reasons = [
        unjudgeable(picture, faces[0]) for picture, faces in zip(pictures, found, strict=True) if faces
    ]
    row = Row(
        pictures=name,
        n=len(pictures),
        recall=sum(1 for faces in found if faces) / len(pictures),
        too_small=reasons.count(Abstain.FACE_TOO_SMALL) / len(pictures),
        too_blurred=reasons.count(Abstain.TOO_BLURRED) / len(pictures),
        unlike=reasons.count(Abstain.UNLIKE_TRAINING) / len(pictures),
        seconds=seconds,
    )
    return row if other is None else _compared(row, pictures, other)


def _compared(row: Row, pictures: Sequence[Picture], other: Callable[[Picture], bool]) -> Row:
    started = time.thread_time()
    recall = sum(other(picture) for picture in pictures) / len(pictures)
    seconds = (time.thread_time() - started) / len(pictures)
    return replace(row, dlib_recall=recall, dlib_seconds=seconds)


def _dlib() -> Callable[[Picture], bool] | None:
    """The frontal detector of dlib with its usual single enlargement. None when it is not installed."""
    try:
        detector: Any = importlib.import_module("dlib").get_frontal_face_detector()
    except ModuleNotFoundError:
        return None
    return lambda picture: bool(len(detector(_bordered(picture.pixels), 1)))


def _bordered(pixels: np.ndarray) -> np.ndarray:
    """With a black border of a quarter of the height, so that tight crops have a chance."""
    border = pixels.shape[0] // 4
    return np.pad(pixels, ((border, border), (border, border), (0, 0)))


def _print_head() -> None:
    names = f"{'recall':>8}{'small':>8}{'blurred':>9}{'unlike':>8}{'s':>8}{'dlib':>8}{'dlib s':>8}"
    print(f"{'pictures':<26}{'n':>5}{names}")


def _print_row(row: Row) -> None:
    line = f"{row.pictures:<26}{row.n:>5}{row.recall:>8.3f}{row.too_small:>8.3f}"
    line += f"{row.too_blurred:>9.3f}{row.unlike:>8.3f}"
    compared = "" if row.dlib_recall is None else f"{row.dlib_recall:>8.3f}{row.dlib_seconds:>8.3f}"
    print(f"{line}{row.seconds:>8.3f}{compared}", flush=True)


if __name__ == "__main__":
    main()
