"""How often faces are found, at what cost, and whether the gate treats forged and bona fide faces alike.

    python -m benchmarks.faces FOLDER [--each 200] [--portraits congress_portraits] [--before CHECKOUT] [--json]

FOLDER holds one folder per source: pictures directly in it, or in `real/` and `fake/` below it. From the source
named by --portraits further pictures are made: faces of known size on a large canvas, tight crops, blurred ones,
pictures that were turned or mirrored, pages of several portraits, and pictures without a face.
With --before the finder of another checkout of this repository is measured on the same pictures, alternating with ours.
With dlib installed (`pip install dlib-bin`) its frontal detector is measured on the same pictures.
"""

import argparse
import importlib
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from moderation.analysis import Abstain, Box, Face
from moderation.dfa.gpt.faces import find_faces, unjudgeable
from moderation.dfa.gpt.mtcnn import nets
from moderation.dfa.gpt.pixels import Picture, crop_face, decode_picture, roll

#: Longer side of the box in pixels, on a canvas of 800 × 600.
SMALL_FACES = (20, 32, 48, 64, 96)
#: Standard deviation of the blur, as a share of the box's shorter side.
BLURS = (0.01, 0.02, 0.04, 0.06, 0.08)


#: Degrees clockwise.
TURNS = (20, 45, 90, 135, 180, 225, 270, 315)

#: Degrees by which the roll of a turned face may be wrong.
ROLL_WITHIN = 30
#: Smallest overlap, as a share of the union, of two boxes of the same face.
SAME_FACE = 0.4

Finder = Callable[[Picture], Sequence[Face]]


@dataclass(frozen=True)
class Sample:
    """A picture, and its known faces. None: it is only known that there is one."""

    picture: Picture
    roll: float | None = None
    boxes: tuple[Box, ...] | None = None

    def found(self, faces: Sequence[Face]) -> float:
        """The share of its faces that these contain."""
        if self.boxes is not None:
            places = [any(_overlap(face.box, box) > SAME_FACE for face in faces) for box in self.boxes]
            return sum(places) / max(len(places), 1)
        if self.roll is not None:
            return float(any(_away(face, self.roll) < ROLL_WITHIN for face in faces))
        return float(bool(faces))

    def false(self, faces: Sequence[Face]) -> int:
        """How many of these are none of its faces. If no place is known, all but one."""
        if self.boxes is None:
            return max(len(faces) - 1, 0)
        return sum(all(_overlap(face.box, box) <= SAME_FACE for box in self.boxes) for face in faces)


def _away(face: Face, degrees: float) -> float:
    return abs((roll(face.landmarks or ()) - degrees + 180) % 360 - 180)


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    shared = one.shared(other)
    return shared / (one.width * one.height + other.width * other.height - shared)


@dataclass(frozen=True)
class Row:
    pictures: str
    n: int
    #: Share of the faces that were found. With one face, any found face counts; a turned one counts with its roll.
    recall: float
    #: Found faces that are none, per picture.
    false: float
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
    #: The same for the earlier finder. None without one.
    recall_before: float | None = None
    false_before: float | None = None
    seconds_before: float | None = None


def main() -> None:
    arguments = _arguments()
    if arguments.folder is None:
        print("No folder of pictures was given: nothing is measured.")
        return
    torch.set_num_threads(1)
    nets()  # so that no picture pays for loading them
    other = _dlib()
    before = None if arguments.before is None else _finder_of(arguments.before.resolve())
    rows: list[Row] = []
    _print_head()
    for name, samples in _everything(arguments.folder, arguments.each, arguments.portraits):
        rows.append(_measured(name, samples, other, before))
        _print_row(rows[-1])
    if before is not None:
        _print_compared(rows)
    if arguments.json:
        print(json.dumps({"faces": [asdict(row) for row in rows]}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Recall and cost of the face finder.")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--each", type=int, default=200, help="pictures per source and label")
    parser.add_argument(
        "--portraits", default="congress_portraits", help="the source that further ones are made of"
    )
    parser.add_argument("--before", type=Path, help="a checkout whose finder is measured beside ours")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


# --- pictures ---


def _everything(folder: Path, each: int, portraits: str) -> Iterator[tuple[str, list[Sample]]]:
    for name, paths in _sources(folder):
        chosen = random.Random(0).sample(paths, min(each, len(paths)))
        pictures = [decode_picture(path.read_bytes()) for path in chosen]
        yield name, [Sample(picture) for picture in pictures]
        if name == portraits:
            yield from _made_of(pictures)


def _sources(folder: Path) -> list[tuple[str, list[Path]]]:
    found = {
        str(below.relative_to(folder)): sorted(below.glob("*.jpg"))
        for below in sorted(folder.rglob("*"))
        if below.is_dir()
    }
    return [(name, paths) for name, paths in found.items() if paths]


def _made_of(portraits: Sequence[Picture]) -> Iterator[tuple[str, list[Sample]]]:
    for side in SMALL_FACES:
        yield f"  face of {side} px", [Sample(made) for each in portraits if (made := _small(each, side))]
    for share in BLURS:
        yield (
            f"  blur of {share:.0%}",
            [Sample(made) for each in portraits if (made := _blurred(each, share))],
        )
    yield "  box only", [Sample(made) for each in portraits if (made := _tight(each))]
    for degrees in TURNS:
        yield f"  turned by {degrees}", [Sample(_turned(each, degrees), degrees) for each in portraits]
    yield "  upside down, mirrored", [Sample(_mirrored(each), 180) for each in portraits]
    for count in SEVERAL:
        yield f"  {count} faces", [_page(portraits, first, count) for first in range(len(portraits))]
    yield "  no face", [made for each in portraits for made in _beside(each)]


#: Faces on a page.
SEVERAL = (2, 6)


def _page(portraits: Sequence[Picture], first: int, count: int) -> Sample:
    """Several portraits in two rows on grey, of different sizes. The last is turned on its side."""
    chance = random.Random(first)
    page = Image.new("RGB", (400 * (count // 2), 800), "gray")
    boxes: list[Box] = []
    for number in range(count):
        portrait = portraits[(first + number) % len(portraits)]
        height, width = portrait.pixels.shape[:2]
        by = chance.uniform(0.5, 1.0) * 400 / max(width, height)
        size = (round(width * by), round(height * by))
        image = Image.fromarray(portrait.pixels).resize(size, Image.Resampling.BICUBIC)
        left, top = 400 * (number // 2), 400 * (number % 2)
        for box in [face.box for face in find_faces(portrait)[:1]]:
            place = Box(*(edge * by for edge in box))
            if number == count - 1:
                image = image.transpose(Image.Transpose.ROTATE_270)
                place = Box(size[1] - place.bottom, place.left, size[1] - place.top, place.right)
            boxes.append(Box(place.left + left, place.top + top, place.right + left, place.bottom + top))
        page.paste(image, (left, top))
    facts = portraits[first].facts
    return Sample(Picture(np.array(page), facts), boxes=tuple(boxes))


def _beside(portrait: Picture) -> Iterator[Sample]:
    """The parts beside and above the face, if they are wide enough."""
    height, width = portrait.pixels.shape[:2]
    for face in find_faces(portrait)[:1]:
        left, top, right, _ = (round(edge) for edge in face.box)
        for part in (
            portrait.pixels[:, : max(left, 0)],
            portrait.pixels[:, min(right, width) :],
            portrait.pixels[: max(top, 0)],
        ):
            if min(part.shape[:2]) >= min(height, width) // 6:
                yield Sample(Picture(np.ascontiguousarray(part), portrait.facts), boxes=())


def _mirrored(portrait: Picture) -> Picture:
    """Upside down and mirrored."""
    return Picture(np.ascontiguousarray(portrait.pixels[::-1]), portrait.facts)


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
    """Turned with its frame; the pixels at the edges fill the corners."""
    reach = max(portrait.pixels.shape) // 4
    wide = np.pad(portrait.pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    turned = Image.fromarray(wide).rotate(-degrees, Image.Resampling.BICUBIC)
    return Picture(np.array(turned), portrait.facts)


# --- measuring ---


def _measured(
    name: str, samples: Sequence[Sample], other: Callable[[Picture], bool] | None, before: Finder | None
) -> Row:
    pictures = [sample.picture for sample in samples]
    found: list[Sequence[Face]] = []
    earlier: list[Sequence[Face]] = []
    seconds = seconds_before = 0.0
    for picture in pictures:
        faces, took = _timed(find_faces, picture)
        found.append(faces)
        seconds += took / len(pictures)
        if before is not None:
            faces, took = _timed(before, picture)
            earlier.append(faces)
            seconds_before += took / len(pictures)
    reasons = [
        unjudgeable(picture, faces[0]) for picture, faces in zip(pictures, found, strict=True) if faces
    ]
    recall, false = _right(samples, found)
    row = Row(
        pictures=name,
        n=len(pictures),
        recall=recall,
        false=false,
        too_small=reasons.count(Abstain.FACE_TOO_SMALL) / len(pictures),
        too_blurred=reasons.count(Abstain.TOO_BLURRED) / len(pictures),
        unlike=reasons.count(Abstain.UNLIKE_TRAINING) / len(pictures),
        seconds=seconds,
    )
    if before is not None:
        recall, false = _right(samples, earlier)
        row = replace(row, recall_before=recall, false_before=false, seconds_before=seconds_before)
    return row if other is None else _compared(row, pictures, other)


def _timed(find: Finder, picture: Picture) -> tuple[Sequence[Face], float]:
    """The faces, and CPU seconds."""
    started = time.thread_time()
    faces = find(picture)
    return faces, time.thread_time() - started


def _right(samples: Sequence[Sample], found: Sequence[Sequence[Face]]) -> tuple[float, float]:
    """Recall, and false faces per picture."""
    recall = [sample.found(faces) for sample, faces in zip(samples, found, strict=True)]
    false = [sample.false(faces) for sample, faces in zip(samples, found, strict=True)]
    return sum(recall) / len(samples), sum(false) / len(samples)


def _finder_of(checkout: Path) -> Finder:
    """The `find_faces` of another checkout, with its own modules."""
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "moderation"}
    for name in ours:
        del sys.modules[name]
    sys.path.insert(0, str(checkout))
    try:
        module = importlib.import_module("moderation.dfa.gpt.faces")
        assert module.__file__ is not None
        assert Path(module.__file__).is_relative_to(checkout), module.__file__
    finally:
        sys.path.remove(str(checkout))
        for name in [name for name in sys.modules if name.split(".")[0] == "moderation"]:
            del sys.modules[name]
        sys.modules.update(ours)
    module.nets()
    return module.find_faces


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
    names = f"{'recall':>8}{'false':>8}{'small':>8}{'blurred':>9}{'unlike':>8}{'s':>8}"
    print(f"{'pictures':<26}{'n':>5}{names}  (before: recall, false, s; dlib: recall, s)")


def _print_row(row: Row) -> None:
    line = f"{row.pictures:<26}{row.n:>5}{row.recall:>8.3f}{row.false:>8.3f}{row.too_small:>8.3f}"
    line += f"{row.too_blurred:>9.3f}{row.unlike:>8.3f}{row.seconds:>8.3f}"
    more = (row.recall_before, row.false_before, row.seconds_before, row.dlib_recall, row.dlib_seconds)
    print(line + "".join(f"{value:>8.3f}" for value in more if value is not None), flush=True)


def _print_compared(rows: Sequence[Row]) -> None:
    """The CPU over that of the earlier finder: for pictures that people sent, and for those made here."""
    for words, chosen in (
        ("pictures as they are", [row for row in rows if not row.pictures.startswith(" ")]),
        ("pictures made of portraits", [row for row in rows if row.pictures.startswith(" ")]),
    ):
        before = sum(row.n * (row.seconds_before or 0.0) for row in chosen)
        if before:
            ratio = sum(row.n * row.seconds for row in chosen) / before
            print(f"{words}: {ratio:.2f} of the CPU of before")


if __name__ == "__main__":
    main()
