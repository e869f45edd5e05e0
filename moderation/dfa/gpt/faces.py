"""Where the faces are, with five landmarks each, and which of them nobody could judge.

The cascade of MTCNN (arXiv 1604.02878): its first net scans smaller and smaller copies of the picture for
candidates, and two further nets judge these at 24 and 48 pixels. The weights come inside an installable package
(`mtcnn.py`). `benchmarks/faces.py` measures how often a face is found, and what that costs.

The nets know faces that stand upright, or nearly. The others are found in turned copies of the picture. The score tells
which way up a face is: it is highest the right way up.

Pictures that are mostly text are not recognised here yet.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from moderation.analysis import (
    BACKGROUND,
    SMALLEST_JUDGED,
    Abstain,
    Box,
    Face,
    Point,
    longer_side,
    shorter_side,
)
from moderation.dfa.gpt.mtcnn import Nets, nets
from moderation.dfa.gpt.pixels import Picture, crop_face, roll
from moderation.dfa.gpt.unlike_training import unlike_training

# N candidates, L = 5 landmarks. A table of candidates is (N, 5): left, top, right, bottom in pixels of the
# picture, and a score in [0, 1].

#: Part of every fingerprint. Raised when the same pixels can give other faces or another abstention.
FACES_VERSION: int = 3

#: The window of the proposal net, and its step, in pixels.
WINDOW, STEP = 12, 2
#: Border around every copy, in its own pixels: a face that is cut by the frame, or fills it, gets a surround.
BORDER = 8
#: Sides of a sheet of copies, in pixels, are multiples of this: torch prepares itself for every new shape, for as long
#: as it then computes.
SIDES = 16
#: Patches that a net judges at once, at most, for the same reason, and so that they stay in the processor's cache.
PATCHES_REFINED, PATCHES_JUDGED = 16, 4
#: A picture is reduced by a whole number, which costs little, to a copy about this much larger than the finest that is
#: scanned. That one is made of it, and candidates are cut from it.
LARGER = 1 / 0.7

#: The `sharpness` below which a face is not judged. Half of the softest among 700 faces of four sources, bona fide
#: and forged (0.06): none of those is refused, and a blur of a twentieth of the face is (`benchmarks/faces.py`).
SHARPEST_HOPELESS = 0.03


@dataclass(frozen=True)
class Look:
    """How closely to look, and how sure to be."""

    #: How many copies later one has a quarter of the pixels.
    steps: int
    #: Scores in [0, 1] from which a candidate goes on: proposal, refinement, output.
    proposed: float
    refined: float
    found: float
    #: Pixels of the longer side of the smallest face that the finest copy shows.
    smallest: float
    #: Larger faces are not looked for. In the same pixels.
    largest: float = math.inf
    #: Longer side in pixels of the finest copy that is scanned. Larger pictures are looked at for larger faces only:
    #: in a picture of 4,000 pixels, for faces from 94.
    longest: int = 512


#: The thresholds of the package that the weights come from; each copy has half the pixels of the one before. A box is
#: a fifth narrower than high: the shorter side of the smallest face is about `SMALLEST_JUDGED`.
FIRST_LOOK = Look(steps=2, proposed=0.6, refined=0.7, found=0.8, smallest=48)
#: Taken when the first finds nothing: for faces that are too small to be judged, so that we can say so.
CLOSER_LOOK = replace(FIRST_LOOK, smallest=24, largest=FIRST_LOOK.smallest)
#: Taken when the first finds nothing: in the picture with its contrast stretched, for one face that fills the
#: frame. Dim pictures, profiles and forgeries that came out broken get low scores. Without this look 8 % of the
#: forged and 4 % of the bona fide crops of DFDC were lost, and the gate itself told the two apart. The price: of
#: 1,000 pictures cut from backgrounds it sees a face in 16; the first look alone does in 3.
SECOND_LOOK = Look(steps=4, proposed=0.3, refined=0.1, found=0.3, smallest=24)
#: Share of the picture's shorter side that a box of the second look must have.
FILLS_THE_FRAME = 0.4

#: Degrees clockwise by which a picture is turned to look for faces that do not stand upright.
QUARTERS = (90, 180, 270)
EIGHTHS = (45, 90, 135, 180, 225, 270, 315)
#: For faces that do not stand upright. In a picture of 1,000 pixels or less, for faces from 48; smaller ones are
#: hardly judged. Surer than the first look, because it looks many times.
TURNED_LOOK = replace(FIRST_LOOK, found=0.98, longest=256)
#: Beside a face that is beyond doubt. Dearer candidates: most pictures then end with the first net.
FURTHER_LOOK = replace(TURNED_LOOK, proposed=0.85)
#: Longer side in pixels of the copy that is turned.
LONGEST_TURNED = 1024
#: The score from which a face is there beyond doubt, and the one from which it stands upright beyond doubt: below it is
#: looked at another way up. Upside down a face can get the first, and .999.
CONVINCING, UPRIGHT = 0.99, 0.9995
#: Degrees of roll at which the nets are as good as upright.
NEARLY_UPRIGHT = 30
#: The score that the second look takes of a face that does not stand upright. With less, many pictures of necks, hands
#: and backgrounds show a face that is not there.
CLEARLY_THERE = 0.9

#: Share of a face's longer side that has to be seen, or it is not found.
LEAST_SHOWN = 0.6

#: Candidates that go on from one stage, best first. A picture of noise or of a crowd costs no more than this.
MOST_CANDIDATES = 256
#: Candidates that are judged before the others. When one of them is a convincing face, fewer others are judged.
BEST_CANDIDATES = 4
#: Share of a candidate, or of the smaller of two faces, that lies in a face when both are taken for one.
WITHIN = 0.7


class Copy:
    """An image, or a smaller copy of it, turned when it is first asked for."""

    def __init__(self, image: Image.Image, scale: float, quarters: int = 0) -> None:
        self._image, self._quarters = image, quarters
        self.scale = scale  # pixels of the copy per pixel of the image

    @cached_property
    def image(self) -> Image.Image:
        return _by_quarters(self._image, self._quarters)

    def by_quarters(self, quarters: int) -> "Copy":
        return Copy(self.image, self.scale, quarters)


@dataclass(frozen=True)
class View:
    """A picture one way up."""

    #: The picture, and smaller copies that candidates are cut from.
    finer: Sequence[Copy]
    #: Smaller and smaller copies that are searched, until a face that fills the frame fits into one window.
    scanned: Sequence[Copy]

    @property
    def size(self) -> tuple[int, int]:
        return self.finer[0].image.size


def find_faces(picture: Picture, *, at_most: int | None = None) -> list[Face]:
    """The faces of a picture, largest first, in upright pixels; all of them, or as many as are asked for.

    Many threads may call this at once.
    """
    image = Image.fromarray(picture.pixels)
    with torch.inference_mode():
        faces = _at_any_roll(image) or _filling(image)
    return sorted(faces, key=lambda face: face.box.width * face.box.height, reverse=True)[:at_most]


def _at_any_roll(image: Image.Image) -> list[Face]:
    """Faces at any roll. Beside a face that can be judged, only others that are about as large."""
    upright = _search(image, FIRST_LOOK) or _search(image, CLOSER_LOOK)
    faces = _right_way_up(image, upright, _other_ways_up(image, upright))
    judgeable = [face for face in faces if longer_side(face) >= SMALLEST_JUDGED]
    if not judgeable:
        return _right_way_up(image, faces, _turned(image, EIGHTHS, TURNED_LOOK))
    convincing = [face for face in judgeable if face.confidence >= CONVINCING]
    look = FURTHER_LOOK if convincing else TURNED_LOOK
    smallest = max(look.smallest, BACKGROUND * max(longer_side(face) for face in judgeable))
    largest = _room_beside(image.size, convincing) / LEAST_SHOWN
    if largest < smallest:
        return faces
    others = _turned(image, QUARTERS, replace(look, smallest=smallest, largest=largest), without=convincing)
    return _right_way_up(image, faces, others) if others else faces


def _room_beside(size: tuple[int, int], faces: Sequence[Face]) -> float:
    """The widest space in pixels between one face and the frame; with none or several, the picture's longer side."""
    if len(faces) != 1:
        return max(size)
    (left, top, right, bottom), (width, height) = faces[0].box, size
    return max(left, top, width - right, height - bottom)


def _other_ways_up(image: Image.Image, faces: Sequence[Face]) -> list[Face]:
    """Faces found in place of doubtful ones that score higher another way up."""
    found: list[Face] = []
    for face in faces:
        if face.confidence < UPRIGHT and longer_side(face) >= SMALLEST_JUDGED:
            scores, *_ = nets().judge(_seen(_patch_turned(image, face)))
            if scores.max() > face.confidence:
                found += _around(image, face, EIGHTHS)
    return found


def _patch_turned(image: Image.Image, face: Face) -> list[Image.Image]:
    """The square around a face for the last net, turned by each of `QUARTERS`."""
    x, y = (face.box.left + face.box.right) / 2, (face.box.top + face.box.bottom) / 2
    reach = longer_side(face) / 2
    cut = image.crop((round(x - reach), round(y - reach), round(x + reach), round(y + reach)))
    upright = cut.resize((48, 48), Image.Resampling.BILINEAR, reducing_gap=1.0)
    return [_by_quarters(upright, degrees // 90) for degrees in QUARTERS]


#: Clockwise.
_QUARTER = (None, Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_90)


def _by_quarters(image: Image.Image, quarters: int) -> Image.Image:
    turn = _QUARTER[quarters]
    return image if turn is None else image.transpose(turn)


def _right_way_up(image: Image.Image, upright: Sequence[Face], turned: Sequence[Face]) -> list[Face]:
    """The surest face of each place, after tilted ones were searched again, turned upright.

    A face that is upside down and a little tilted can look like one that is only a little tilted. Once it is turned
    back by that tilt, it no longer does.
    """
    ranked = [(face, face.confidence) for face in upright]
    tilted = [face for face in (*upright, *turned) if not _nearly_upright(face)]
    again = [found for face in tilted for found in _around(image, face, [-_roll(face)])]
    # Where the nets are as good as upright, the picture as it is says it better.
    ranked += [(face, face.confidence - _nearly_upright(face)) for face in (*again, *turned)]
    if not ranked:
        return []
    table = np.array([[*face.box, rank] for face, rank in ranked])
    return [ranked[index][0] for index in _kept(table, 0.5, of_smaller=True)]


def _nearly_upright(face: Face) -> bool:
    return abs(_roll(face)) < NEARLY_UPRIGHT


def _roll(face: Face) -> float:
    return 0.0 if face.landmarks is None else roll(face.landmarks)


def _around(image: Image.Image, face: Face, turns: Sequence[float]) -> list[Face]:
    """Faces found in the place of this one when the place is turned clockwise by each of these degrees."""
    reach = longer_side(face)
    left, top = max(int(face.box.left - reach / 2), 0), max(int(face.box.top - reach / 2), 0)
    right, bottom = math.ceil(face.box.right + reach / 2), math.ceil(face.box.bottom + reach / 2)
    part = image.crop((left, top, min(right, image.width), min(bottom, image.height)))
    found = _turned(part, turns, replace(TURNED_LOOK, smallest=reach * BACKGROUND))
    return [_moved_by(again, left, top) for again in found]


def _moved_by(face: Face, x: float, y: float) -> Face:
    assert face.landmarks is not None
    box = Box(face.box.left + x, face.box.top + y, face.box.right + x, face.box.bottom + y)
    return _marked(box, face.confidence, (Point(at.x + x, at.y + y) for at in face.landmarks))


def _marked(box: Box, confidence: float, landmarks: Iterable[Point]) -> Face:
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    return Face(box, confidence, (left_eye, right_eye, nose, left_mouth, right_mouth))


def _turned(
    image: Image.Image, turns: Sequence[float], look: Look, *, without: Sequence[Face] = ()
) -> list[Face]:
    """Faces found in copies of a picture, turned clockwise by degrees. They are placed in the picture itself.

    The faces of `without` are painted over, so that they are not found again.
    """
    # As large as the last net needs the smallest face.
    by = min(48 / look.smallest, LONGEST_TURNED / max(image.size), 1.0)
    slanted = any(degrees % 90 for degrees in turns)
    whole = Copy(image, 1.0)
    smaller = _smaller(whole, by) if slanted else _reduced(whole, int(1 / by))
    by, (width, height) = smaller.scale, smaller.image.size
    for face in without:
        left, top, right, bottom = (round(edge * by) for edge in face.box)
        smaller.image.paste("gray", (left, top, right, bottom))
    look = replace(look, smallest=look.smallest * by, largest=look.largest * by)
    views = {rest: _view(_tilted(smaller.image, rest), look) for rest in {degrees % 90 for degrees in turns}}
    turned = [_view_by_quarters(views[degrees % 90], int(degrees % 360 // 90)) for degrees in turns]
    return [
        _turned_back(face, degrees, view.size, (width / by, height / by), by)
        for degrees, view, faces in zip(turns, turned, _search_all(turned, look), strict=True)
        for face in faces
    ]


def _tilted(image: Image.Image, degrees: float) -> Image.Image:
    return image.rotate(-degrees, Image.Resampling.BILINEAR, expand=True) if degrees else image


def _turned_back(
    face: Face, degrees: float, turned: tuple[int, int], whole: tuple[float, float], by: float
) -> Face:
    """A turned copy's face in the picture itself. Its box keeps its sides, and stays centred on the face."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def back(x: float, y: float) -> Point:
        across, down = (x - turned[0] / 2) / by, (y - turned[1] / 2) / by
        x, y = across * cosine + down * sine, down * cosine - across * sine
        return Point(x + whole[0] / 2, y + whole[1] / 2)

    box = face.box
    x, y = back((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    width, height = box.width / by, box.height / by
    if 45 < degrees % 180 < 135:
        width, height = height, width
    assert face.landmarks is not None
    around = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return _marked(around, face.confidence, (back(*point) for point in face.landmarks))


def _filling(image: Image.Image) -> list[Face]:
    """The likeliest face that fills the frame, if there is one."""
    # Its luminance is stretched over the whole range, but for a hundredth at either end. Only to search in.
    stretched = ImageOps.autocontrast(image, cutoff=1, preserve_tone=True)
    enough = FILLS_THE_FRAME * min(image.size)
    look = replace(SECOND_LOOK, smallest=max(enough / 2, SECOND_LOOK.smallest))
    turned = replace(look, found=CLEARLY_THERE, smallest=max(enough / 2, TURNED_LOOK.smallest))
    faces = [*_search(stretched, look), *_turned(stretched, QUARTERS, turned)]
    filling = [face for face in faces if min(face.box.width, face.box.height) >= enough]
    return sorted(filling, key=lambda face: face.confidence, reverse=True)[:1]


def _search(image: Image.Image, look: Look) -> list[Face]:
    return _search_all([_view(image, look)], look)[0]


def _search_all(views: Sequence[View], look: Look) -> list[list[Face]]:
    """The faces in each of the views. The nets see all of them at once: a call costs more than a small image does."""
    cascade = nets()
    candidates = _proposed(cascade, views, look)
    faces = _judged(cascade, views, [own[:BEST_CANDIDATES] for own in candidates], look)
    others = [_further(own[BEST_CANDIDATES:], found) for own, found in zip(candidates, faces, strict=True)]
    if not any(map(len, others)):
        return faces
    further = _judged(cascade, views, others, look)
    return [_apart([*found, *more]) for found, more in zip(faces, further, strict=True)]


def _further(candidates: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
    """The candidates that are still judged. Beside a convincing face: only likely ones that lie outside it."""
    sure = np.array([face.box for face in faces if face.confidence >= CONVINCING])
    if not len(sure):
        return candidates
    outside = (_shared(candidates, sure) <= WITHIN * _areas(candidates)[:, None]).all(axis=1)
    return candidates[outside & (candidates[:, 4] > FURTHER_LOOK.proposed)]


def _apart(faces: Sequence[Face]) -> list[Face]:
    table = np.array([[*face.box, face.confidence] for face in faces]).reshape(-1, 5)
    return [faces[index] for index in _kept(table, WITHIN, of_smaller=True)]


def unjudgeable(picture: Picture, face: Face) -> Abstain | None:
    """Why nobody could judge this face, or None. Says nothing about who or what made the picture."""
    if shorter_side(face) < SMALLEST_JUDGED:
        return Abstain.FACE_TOO_SMALL
    if sharpness(picture, face) < SHARPEST_HOPELESS:
        return Abstain.TOO_BLURRED
    if unlike_training(picture, face):
        return Abstain.UNLIKE_TRAINING
    return None


def sharpness(picture: Picture, face: Face) -> float:
    """How much of a face's contrast is fine detail, in [0, 1]: the share that a blur of 3 × 3 pixels takes away.

    Measured on the luminance of the face at 64 × 64 pixels, so that neither the size of the file nor the finest
    grain counts, and relative to the face's own contrast, so that darkness does not look like blur.
    """
    luminance = np.array(
        Image.fromarray(crop_face(picture, face, 64, margin=1.0)).convert("L"), dtype=np.float64
    )
    rows = luminance[:-2] + luminance[1:-1] + luminance[2:]
    blurred = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    detail = luminance[1:-1, 1:-1] - blurred
    return float(detail.std() / max(luminance.std(), 1.0))


def _view_by_quarters(view: View, quarters: int) -> View:
    return View(
        [copy.by_quarters(quarters) for copy in view.finer],
        [copy.by_quarters(quarters) for copy in view.scanned],
    )


def _view(image: Image.Image, look: Look) -> View:
    """The copies of a picture. The first few are resized; halving those costs less than to resize more."""
    longer = max(image.size)
    scale = min(WINDOW / look.smallest, look.longest / longer)
    finer = [Copy(image, 1.0)]
    if (factor := int(1 / (LARGER * scale))) > 1:
        finer.append(_reduced(finer[0], factor))
    scanned: list[Copy] = []
    while not scanned or (longer * scale >= WINDOW and scale * look.largest > WINDOW):
        if len(scanned) < look.steps:
            scanned.append(_smaller((scanned or finer)[-1], scale))
        else:
            scanned.append(_reduced(scanned[-look.steps], 2))
        scale *= 0.5 ** (1 / look.steps)
    return View(finer, scanned)


def _smaller(copy: Copy, scale: float) -> Copy:
    by = scale / copy.scale
    width, height = copy.image.size
    size = (max(round(width * by), 1), max(round(height * by), 1))
    return Copy(copy.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0), scale)


def _reduced(copy: Copy, factor: int) -> Copy:
    return Copy(copy.image.reduce(factor), copy.scale / factor)


# --- the three stages ---


def _proposed(cascade: Nets, views: Sequence[View], look: Look) -> list[np.ndarray]:
    """Windows that may hold a face, as squares, for each view."""
    copies = [copy for view in views for copy in view.scanned]
    of = np.repeat(np.arange(len(views)), [len(view.scanned) for view in views])
    windows, own = _scanned(cascade, copies, look)
    candidates = [windows[of[own] == number] for number in range(len(views))]
    return [_squared(each[_kept(each, 0.5)]) for each in candidates]


def _scanned(cascade: Nets, copies: Sequence[Copy], look: Look) -> tuple[np.ndarray, np.ndarray]:
    """The windows that the proposal net likes, moved as it says, and the number of the copy that each lies in."""
    sheet = _sheet(tuple(copy.image.size for copy in copies))
    page = Image.new("RGB", sheet.size)
    for copy, place in zip(copies, sheet.places, strict=True):
        page.paste(copy.image, place)
    scores, offsets = (each.numpy() for each in cascade.propose(_seen([page])))  # (H, W), (H, W, 4)
    rows, columns = np.nonzero(
        (scores > look.proposed) & (sheet.owners[: len(scores), : scores.shape[1]] >= 0)
    )
    owners = sheet.owners[rows, columns]
    corners = np.stack([columns, rows], axis=1) * STEP - np.array(sheet.places)[owners]  # (N, 2)
    windows = np.concatenate([corners, corners + WINDOW], axis=1) + offsets[rows, columns] * WINDOW
    scales = np.array([copy.scale for copy in copies])[owners, None]
    return np.concatenate([windows / scales, scores[rows, columns, None]], axis=1), owners


@dataclass(frozen=True)
class Sheet:
    """How copies lie on one black sheet with a border between them."""

    size: tuple[int, int]
    places: Sequence[tuple[int, int]]
    #: (H, W): the number of the copy that the window at each step lies on, or less than 0.
    owners: np.ndarray


@lru_cache(maxsize=256)
def _sheet(sizes: tuple[tuple[int, int], ...]) -> Sheet:
    """The smallest sheet among several: as wide as the widest copy, as the widest two, and so on."""
    framed = [tuple(side + side % 2 + BORDER for side in size) for size in sizes]
    widths = np.cumsum(sorted((width for width, _ in framed), reverse=True)).tolist()
    packed = [_packed(framed, width) for width in widths]
    (width, height), corners = min(packed, key=lambda each: each[0][0] * each[0][1])
    owners = np.full((height // STEP, width // STEP), -1, dtype=np.int16)
    for number, ((left, top), (across, down)) in enumerate(zip(corners, sizes, strict=True)):
        # Windows that are mostly border are no one's.
        right, bottom = left + across + 2 * BORDER - WINDOW, top + down + 2 * BORDER - WINDOW
        owners[top // STEP : bottom // STEP + 1, left // STEP : right // STEP + 1] = number
    owners.setflags(write=False)
    return Sheet((width, height), [(left + BORDER, top + BORDER) for left, top in corners], owners)


def _packed(framed: Sequence[tuple[int, ...]], width: int) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """A sheet of about this width, and the corner of each frame on it, the tallest first: where there is room."""
    corners: list[tuple[int, int]] = [(0, 0)] * len(framed)
    gaps: list[tuple[int, int, int, int]] = []  # left, top, width, height
    bottom = 0
    for index in sorted(range(len(framed)), key=lambda index: -framed[index][1]):
        across, down = framed[index]
        gap = next((gap for gap in gaps if gap[2] >= across and gap[3] >= down), None)
        if gap is None:
            gap = (0, bottom, max(width, across), down)
            bottom += down
        else:
            gaps.remove(gap)
        left, top, wide, tall = gap
        corners[index] = (left, top)
        gaps += [(left + across, top, wide - across, down), (left, top + down, wide, tall - down)]
        gaps.sort(key=lambda gap: gap[3])
    width, height = width + BORDER, bottom + BORDER
    return (width + -width % SIDES, height + -height % SIDES), corners


def _refined(
    cascade: Nets, views: Sequence[View], candidates: Sequence[np.ndarray], look: Look
) -> list[np.ndarray]:
    patches = _patches(views, candidates, 24)
    if not len(patches):
        return list(candidates)
    scores, offsets = _in_groups(cascade.refine, patches, PATCHES_REFINED)
    found: list[np.ndarray] = []
    for own, before in zip(_split(candidates), candidates, strict=True):
        likely = scores[own] > look.refined
        moved = _moved(before, offsets[own], scores[own])[likely]
        found.append(_squared(moved[_kept(moved, 0.7)]))
    return found


def _judged(
    cascade: Nets, views: Sequence[View], candidates: Sequence[np.ndarray], look: Look
) -> list[list[Face]]:
    """Which candidates are faces."""
    candidates = _refined(cascade, views, candidates, look)
    patches = _patches(views, candidates, 48)
    if not len(patches):
        return [[] for _ in views]
    scores, offsets, landmarks = _in_groups(cascade.judge, patches, PATCHES_JUDGED)
    faces: list[list[Face]] = []
    for own, before in zip(_split(candidates), candidates, strict=True):
        points = before[:, None, 0:2] + landmarks[own] * (before[:, 2:4] - before[:, 0:2])[:, None]
        moved = _moved(before, offsets[own], scores[own])
        found = np.flatnonzero(scores[own] > look.found)
        found = found[_kept(moved[found], WITHIN, of_smaller=True)]
        told = zip(moved[found].tolist(), points[found].tolist(), strict=True)
        faces.append(
            [_marked(Box(*row[:4]), min(row[4], 1.0), (Point(x, y) for x, y in at)) for row, at in told]
        )
    return faces


def _split(tables: Sequence[np.ndarray]) -> list[slice]:
    """The rows of each table when all tables are joined."""
    ends = np.cumsum([len(table) for table in tables]).tolist()
    return [slice(end - len(table), end) for end, table in zip(ends, tables, strict=True)]


def _in_groups(net: Callable[[Tensor], Sequence[Tensor]], patches: Tensor, of: int) -> Sequence[np.ndarray]:
    """What the net says of each patch, `of` patches at once."""
    if len(patches) <= of:
        return [each.numpy() for each in net(patches)]
    said = [net(group) for group in patches.split(of)]
    return [torch.cat(each).numpy() for each in zip(*said, strict=True)]


# --- candidates ---


def _seen(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as the nets see them, (B, 3, h, w)."""
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.float().permute(0, 3, 1, 2)


def _patches(views: Sequence[View], candidates: Sequence[np.ndarray], size: int) -> Tensor:
    patches: list[Image.Image] = []
    for view, own in zip(views, candidates, strict=True):
        copies = [*view.finer, *view.scanned]
        patches += [_patch(copies, square, size) for square in own[:, :4].tolist()]
    return _seen(patches) if patches else torch.zeros(0, 3, size, size)


def _patch(copies: Sequence[Copy], square: list[float], size: int) -> Image.Image:
    """One square of the picture, black outside it, from the smallest copy that is still fine enough."""
    scale = size / (square[2] - square[0])
    copy = next((each for each in reversed(copies) if each.scale >= scale), copies[0])
    left, top, right, bottom = (round(at * copy.scale) for at in square)
    cut = copy.image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    return cut.resize((size, size), Image.Resampling.BILINEAR)


def _moved(candidates: np.ndarray, offsets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Candidates with their edges moved by shares of their size, and a new score."""
    sizes = candidates[:, 2:4] - candidates[:, 0:2]
    edges = candidates[:, :4] + offsets * np.concatenate([sizes, sizes], axis=1)
    return np.concatenate([edges, scores[:, None]], axis=1)


def _squared(candidates: np.ndarray) -> np.ndarray:
    """Grown around their centres to the longer side."""
    centres = (candidates[:, 0:2] + candidates[:, 2:4]) / 2
    reach = (candidates[:, 2:4] - candidates[:, 0:2]).max(axis=1, keepdims=True, initial=1.0) / 2
    return np.concatenate([centres - reach, centres + reach, candidates[:, 4:]], axis=1)


#: Candidates that are compared with one another at once.
BLOCK = 64


def _kept(candidates: np.ndarray, overlap: float, *, of_smaller: bool = False) -> np.ndarray:
    """Indices, best score first and at most `MOST_CANDIDATES`, without those that a better one overlaps.

    The overlap is a share of the union, or of the smaller one.
    """
    waiting = np.argsort(-candidates[:, 4], kind="stable")
    kept: list[int] = []
    while len(waiting) and len(kept) < MOST_CANDIDATES:
        block, waiting = waiting[:BLOCK], waiting[BLOCK:]
        hit = _overlapping(candidates[block], candidates[block], overlap, of_smaller=of_smaller)
        free = np.ones(len(block), dtype=bool)
        for best in range(len(block)):
            if free[best]:
                free[best + 1 :] &= ~hit[best, best + 1 :]
        chosen = block[free]
        kept += chosen.tolist()
        waiting = waiting[
            ~_overlapping(candidates[chosen], candidates[waiting], overlap, of_smaller=of_smaller).any(axis=0)
        ]
    return np.array(kept[:MOST_CANDIDATES], dtype=np.intp)


def _overlapping(some: np.ndarray, others: np.ndarray, overlap: float, *, of_smaller: bool) -> np.ndarray:
    """(N, M): whether they share more than this."""
    shared, area, areas = _shared(some, others), _areas(some)[:, None], _areas(others)
    return shared > overlap * (np.minimum(area, areas) if of_smaller else area + areas - shared)


def _shared(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, M): the area that each of some shares with each of the others."""
    width = np.minimum(some[:, 2, None], others[:, 2]) - np.maximum(some[:, 0, None], others[:, 0])
    height = np.minimum(some[:, 3, None], others[:, 3]) - np.maximum(some[:, 1, None], others[:, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def _areas(candidates: np.ndarray) -> np.ndarray:
    return (candidates[:, 2] - candidates[:, 0]) * (candidates[:, 3] - candidates[:, 1])
