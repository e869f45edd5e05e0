"""Where the faces are, with five landmarks each, and which of them nobody could judge.

The cascade of MTCNN (arXiv 1604.02878): a pyramid of small copies is scanned for candidates, which two further
nets judge at 24 and 48 pixels. Its weights come inside an installable package (`mtcnn.py`). How often it finds
what is there, and what it costs, is measured by `benchmarks/faces.py`.

The nets know faces that stand upright, or nearly. Others are found in turned copies of the picture, and told from
upright ones by the score: a face gets its highest the right way up.

Pictures that are mostly text are not recognised here yet.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from moderation.analysis import BACKGROUND, Abstain, Box, Face, Point, longer_side
from moderation.dfa.gpt.mtcnn import Nets, nets
from moderation.dfa.gpt.pixels import Picture, crop_face, roll
from moderation.dfa.gpt.unlike_training import unlike_training

# N candidates, L = 5 landmarks. A table of candidates is (N, 5): left, top, right, bottom in pixels of the
# picture, and a score in [0, 1].

#: Part of every fingerprint. Raised when the same pixels can give other faces or another abstention.
FACES_VERSION: int = 2

#: The window of the proposal net, and its step, in pixels.
WINDOW, STEP = 12, 2
#: Border around every copy, in its own pixels: a face that is cut by the frame, or fills it, gets a surround.
BORDER = 8
#: Sides of a sheet of copies, in pixels, are multiples of this: torch prepares itself for every new shape, for as long
#: as it then computes.
SIDES = 16
#: Patches that a net judges at once, at most, for the same reason, and so that they stay in the processor's cache.
PATCHES_REFINED, PATCHES_JUDGED = 16, 4

#: Shorter side of a box in pixels below which a face is not judged: enlarged beyond that, there is more invented
#: than seen. A convention until the benchmark says where a model's verdicts stop being better than chance.
SMALLEST_JUDGED = 40
#: The `sharpness` below which a face is not judged. Half of the softest among 700 faces of four sources, bona fide
#: and forged (0.06): none of those is refused, and a blur of a twentieth of the face is (`benchmarks/faces.py`).
SHARPEST_HOPELESS = 0.03


@dataclass(frozen=True)
class Look:
    """How closely to look, and how sure to be."""

    #: Each copy is this much smaller than the one before.
    shrink: float
    #: Scores in [0, 1] from which a candidate goes on: proposal, refinement, output.
    proposed: float
    refined: float
    found: float
    #: The smallest face that the finest copy shows, in pixels of the longer side of its box.
    smallest: float = 24
    #: The finest copies are not scanned as long as the next one shows faces smaller than this, in the same pixels.
    enough: float = 0
    #: Longer side in pixels of the finest copy that is scanned. Larger pictures are looked at for larger faces only:
    #: in a picture of 4,000 pixels, for faces from 94.
    longest: int = 512


#: The thresholds of the package that the weights come from; each copy has half the pixels of the one before.
FIRST_LOOK = Look(shrink=0.7071, proposed=0.6, refined=0.7, found=0.8, enough=SMALLEST_JUDGED)
#: Taken when the first finds nothing: for faces that are too small to be judged, so that it can be said.
CLOSER_LOOK = replace(FIRST_LOOK, enough=0)
#: Taken when the first finds nothing: in the picture with its contrast stretched, for one face that fills the
#: frame. Dim pictures, profiles and forgeries that came out broken get low scores. Without this look 8 % of the
#: forged and 4 % of the bona fide crops of DFDC were lost, and the gate itself told the two apart. The price: of
#: 1,000 pictures cut from backgrounds it sees a face in 16; the first look alone does in 3.
SECOND_LOOK = Look(shrink=0.84, proposed=0.3, refined=0.1, found=0.3)
#: Share of the picture's shorter side that a box of the second look must have.
FILLS_THE_FRAME = 0.4

#: Degrees clockwise by which a picture is turned to look for faces that do not stand upright.
QUARTERS = (90, 180, 270)
EIGHTHS = (45, 90, 135, 180, 225, 270, 315)
#: For faces that do not stand upright. In a picture of 1,000 pixels or less, for faces from 48; smaller ones are
#: hardly judged. Surer than the first look, because it looks many times.
TURNED_LOOK = replace(FIRST_LOOK, found=0.98, smallest=48, longest=256)
#: Beside a face that is beyond doubt. Dearer candidates: most pictures then end with the first net.
FURTHER_LOOK = replace(TURNED_LOOK, proposed=0.85)
#: Longer side in pixels of the copy that is turned.
LONGEST_TURNED = 1024
#: The score from which a face is there beyond doubt, and the one from which it stands upright beyond doubt: below it is
#: looked at another way up. Most that stand upright get both. Upside down a face can get the first.
CONVINCING, UPRIGHT = 0.99, 0.998
#: Degrees of roll at which the nets are as good as upright.
NEARLY_UPRIGHT = 30
#: The score that the second look takes of a face that does not stand upright. With less, many pictures of necks, hands
#: and backgrounds show a face that is not there.
CLEARLY_THERE = 0.9

#: Candidates that go on from one stage, best first. A picture of noise or of a crowd costs no more than this.
MOST_CANDIDATES = 256


def find_faces(picture: Picture, *, at_most: int | None = None) -> list[Face]:
    """The faces of a picture, largest first, in upright pixels; all of them, or as many as are asked for.

    Many threads may call this at once.
    """
    with torch.inference_mode():
        faces = _at_any_roll(picture) or _filling(picture)
    return sorted(faces, key=lambda face: face.box.width * face.box.height, reverse=True)[:at_most]


def _at_any_roll(picture: Picture) -> list[Face]:
    """Faces that stand upright, and others: all of them, or beside a face that can be judged those about as large."""
    upright = _search(picture, FIRST_LOOK) or _search(picture, CLOSER_LOOK)
    faces = _right_way_up(picture, upright, _other_ways_up(picture, upright))
    judgeable = [face for face in faces if longer_side(face) >= SMALLEST_JUDGED]
    if not judgeable:
        return _right_way_up(picture, faces, _turned(picture, EIGHTHS, TURNED_LOOK))
    look = FURTHER_LOOK if any(face.confidence >= CONVINCING for face in judgeable) else TURNED_LOOK
    smallest = max(look.smallest, BACKGROUND * max(longer_side(face) for face in judgeable))
    others = _turned(_without(picture, judgeable), QUARTERS, replace(look, smallest=smallest))
    return _right_way_up(picture, faces, others) if others else faces


def _other_ways_up(picture: Picture, faces: Sequence[Face]) -> list[Face]:
    """What doubtful faces are when they look more like faces another way up."""
    doubtful = [face for face in faces if face.confidence < UPRIGHT and longer_side(face) >= SMALLEST_JUDGED]
    if not doubtful:
        return []
    image = Image.fromarray(picture.pixels)
    patches = [_patch_turned(image, face, degrees) for face in doubtful for degrees in EIGHTHS]
    (scores, *_) = _in_groups(nets().judge, _seen(patches), PATCHES_JUDGED)
    found: list[Face] = []
    for face, own in zip(doubtful, scores.reshape(-1, len(EIGHTHS)), strict=True):
        if own.max() > face.confidence:
            found += _around(picture, face, [EIGHTHS[int(own.argmax())]])
    return found


def _patch_turned(image: Image.Image, face: Face, degrees: float) -> Image.Image:
    """The square around a face for the last net, turned clockwise. What turns into its corners is picture too."""
    x, y = (face.box.left + face.box.right) / 2, (face.box.top + face.box.bottom) / 2
    reach = 0.75 * longer_side(face)
    cut = image.crop((round(x - reach), round(y - reach), round(x + reach), round(y + reach)))
    wide = cut.resize((72, 72), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return wide.rotate(-degrees, Image.Resampling.BILINEAR).crop((12, 12, 60, 60))


def _without(picture: Picture, faces: Sequence[Face]) -> Picture:
    """The picture with these faces painted over: nothing more is looked for there."""
    image = Image.fromarray(picture.pixels)
    for face in faces:
        left, top, right, bottom = (round(edge) for edge in face.box)
        image.paste("gray", (left, top, right, bottom))
    return Picture(np.array(image), picture.facts)


def _right_way_up(picture: Picture, upright: Sequence[Face], turned: Sequence[Face]) -> list[Face]:
    """Of what was found in one place the surest, once each was looked at the way up that it claims.

    Upside down and a little tilted, a face can look like one that is tilted a little. Turned by what it seems to be
    tilted, it does so no more.
    """
    ranked = [(face, face.confidence) for face in upright]
    tilted = [face for face in (*upright, *turned) if not _nearly_upright(face)]
    again = [found for face in tilted for found in _around(picture, face, [-_roll(face)])]
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


def _around(picture: Picture, face: Face, turns: Sequence[float]) -> list[Face]:
    """What is found in the place of this face when that is turned clockwise by these degrees."""
    reach = longer_side(face)
    left, top = max(int(face.box.left - reach / 2), 0), max(int(face.box.top - reach / 2), 0)
    right, bottom = math.ceil(face.box.right + reach / 2), math.ceil(face.box.bottom + reach / 2)
    part = Picture(picture.pixels[top:bottom, left:right], picture.facts)
    found = _turned(part, turns, replace(TURNED_LOOK, smallest=reach * BACKGROUND))
    return [_moved_by(again, left, top) for again in found]


def _moved_by(face: Face, x: float, y: float) -> Face:
    assert face.landmarks is not None
    left_eye, right_eye, nose, left_mouth, right_mouth = (Point(at.x + x, at.y + y) for at in face.landmarks)
    box = Box(face.box.left + x, face.box.top + y, face.box.right + x, face.box.bottom + y)
    return Face(box, face.confidence, (left_eye, right_eye, nose, left_mouth, right_mouth))


def _turned(picture: Picture, turns: Sequence[float], look: Look) -> list[Face]:
    """The faces of the picture turned clockwise, where they are in the picture as it is."""
    whole = Image.fromarray(picture.pixels)
    # As large as the last net needs the smallest face.
    by = min(48 / look.smallest, LONGEST_TURNED / max(whole.size), 1.0)
    size = (max(round(whole.width * by), 1), max(round(whole.height * by), 1))
    smaller = whole if by == 1.0 else whole.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    images = [smaller.rotate(-degrees, Image.Resampling.BILINEAR, expand=True) for degrees in turns]
    found = _search_all(images, replace(look, smallest=look.smallest * by))
    return [
        _turned_back(face, degrees, image.size, whole.size, by)
        for degrees, image, faces in zip(turns, images, found, strict=True)
        for face in faces
    ]


def _turned_back(
    face: Face, degrees: float, turned: tuple[int, int], whole: tuple[int, int], by: float
) -> Face:
    """The box keeps its sides, and lies around the same place of the face."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def back(x: float, y: float) -> Point:
        across, down = (x - turned[0] / 2) / by, (y - turned[1] / 2) / by
        return Point(
            across * cosine + down * sine + whole[0] / 2, down * cosine - across * sine + whole[1] / 2
        )

    box = face.box
    x, y = back((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    width, height = box.width / by, box.height / by
    if 45 < degrees % 180 < 135:
        width, height = height, width
    assert face.landmarks is not None
    left_eye, right_eye, nose, left_mouth, right_mouth = (back(*point) for point in face.landmarks)
    return Face(
        Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2),
        face.confidence,
        (left_eye, right_eye, nose, left_mouth, right_mouth),
    )


def _stretched(picture: Picture) -> Picture:
    """With its luminance stretched over the whole range, but for a hundredth at either end. Only to search in."""
    image = ImageOps.autocontrast(Image.fromarray(picture.pixels), cutoff=1, preserve_tone=True)
    return Picture(np.array(image), picture.facts)


def _filling(picture: Picture) -> list[Face]:
    """The likeliest of the faces that fill the frame, or none, in the picture with its contrast stretched."""
    stretched = _stretched(picture)
    enough = FILLS_THE_FRAME * min(picture.pixels.shape[:2])
    look = replace(SECOND_LOOK, enough=enough / 2)
    turned = replace(look, found=CLEARLY_THERE, smallest=max(enough / 2, TURNED_LOOK.smallest), enough=0)
    faces = [*_search(stretched, look), *_turned(stretched, QUARTERS, turned)]
    filling = [face for face in faces if min(face.box.width, face.box.height) >= enough]
    return sorted(filling, key=lambda face: face.confidence, reverse=True)[:1]


def _search(picture: Picture, look: Look) -> list[Face]:
    return _search_all([Image.fromarray(picture.pixels)], look)[0]


def _search_all(images: Sequence[Image.Image], look: Look) -> list[list[Face]]:
    """The faces in each of the images. The nets see all of them at once: a call costs more than a small image does."""
    cascade = nets()
    views = [_copies(image, look) for image in images]
    candidates = _proposed(cascade, views, look)
    candidates = _refined(cascade, views, candidates, look)
    return _judged(cascade, views, candidates, look)


def unjudgeable(picture: Picture, face: Face) -> Abstain | None:
    """Why nobody could judge this face, or None. Says nothing about who or what made the picture."""
    if min(face.box.width, face.box.height) < SMALLEST_JUDGED:
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


def _face(row: list[float], landmarks: list[list[float]]) -> Face:
    left_eye, right_eye, nose, left_mouth, right_mouth = (Point(x, y) for x, y in landmarks)
    return Face(Box(*row[:4]), min(row[4], 1.0), (left_eye, right_eye, nose, left_mouth, right_mouth))


@dataclass(frozen=True)
class Copy:
    """An image, or a smaller copy of it."""

    image: Image.Image
    scale: float  # pixels of the copy per pixel of the image


def _copies(image: Image.Image, look: Look) -> list[Copy]:
    """The image, then smaller and smaller copies until a face that fills the frame fits into one window."""
    whole = Copy(image, 1.0)
    longer = max(whole.image.size)
    scale = min(WINDOW / look.smallest, look.longest / longer)
    copies = [whole]
    while len(copies) == 1 or longer * scale >= WINDOW:
        copies.append(_smaller(copies[-1], scale / copies[-1].scale))
        scale *= look.shrink
    return copies


def _smaller(copy: Copy, by: float) -> Copy:
    width, height = copy.image.size
    size = (max(round(width * by), 1), max(round(height * by), 1))
    image = copy.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return Copy(image, copy.scale * by)


# --- the three stages ---


def _proposed(cascade: Nets, views: Sequence[Sequence[Copy]], look: Look) -> list[np.ndarray]:
    """Windows that may hold a face, as squares, for each view."""
    chosen = [_to_scan(copies, look) for copies in views]
    tables = iter(_scanned(cascade, [copy for copies in chosen for copy in copies], look))
    found: list[np.ndarray] = []
    for copies in chosen:
        own = [table[_kept(table, 0.5)] for table in islice(tables, len(copies))]
        candidates = np.concatenate(own)
        found.append(_squared(candidates[_kept(candidates, 0.7)]))
    return found


def _to_scan(copies: Sequence[Copy], look: Look) -> Sequence[Copy]:
    first = 1
    while first + 1 < len(copies) and copies[first + 1].scale * look.enough >= WINDOW:
        first += 1
    return copies[first:]


def _scanned(cascade: Nets, copies: Sequence[Copy], look: Look) -> list[np.ndarray]:
    """The windows of each copy that the proposal net likes, moved as it says."""
    sheet, places = _sheet(copies)
    scores, offsets = (each.numpy() for each in cascade.propose(_seen([sheet])))  # (H, W), (H, W, 4)
    rows, columns = np.nonzero(scores > look.proposed)
    corners = np.stack([columns, rows], axis=1) * STEP  # (N, 2)
    moved = offsets[rows, columns] * WINDOW
    likely = scores[rows, columns, None]
    tables: list[np.ndarray] = []
    for copy, place in zip(copies, places, strict=True):
        corner = corners - place
        farthest = np.array(copy.image.size) + BORDER - WINDOW
        own = ((corner >= -BORDER) & (corner <= farthest)).all(axis=1)
        windows = np.concatenate([corner[own], corner[own] + WINDOW], axis=1) + moved[own]
        tables.append(np.concatenate([windows / copy.scale, likely[own]], axis=1))
    return tables


def _sheet(copies: Sequence[Copy]) -> tuple[Image.Image, list[tuple[int, int]]]:
    """All copies on one black sheet with a border between them, and the place of each."""
    framed = [tuple(side + side % 2 + BORDER for side in copy.image.size) for copy in copies]
    width = max(each for each, _ in framed)
    places: list[tuple[int, int]] = [(0, 0)] * len(copies)
    left = top = tallest = 0
    for index in sorted(range(len(copies)), key=lambda index: -framed[index][1]):
        across, down = framed[index]
        if left + across > width:
            left, top, tallest = 0, top + tallest, 0
        places[index] = (left + BORDER, top + BORDER)
        left, tallest = left + across, max(tallest, down)
    width, height = width + BORDER, top + tallest + BORDER
    sheet = Image.new("RGB", (width + -width % SIDES, height + -height % SIDES))
    for copy, place in zip(copies, places, strict=True):
        sheet.paste(copy.image, place)
    return sheet, places


def _refined(
    cascade: Nets, views: Sequence[Sequence[Copy]], candidates: Sequence[np.ndarray], look: Look
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
    cascade: Nets, views: Sequence[Sequence[Copy]], candidates: Sequence[np.ndarray], look: Look
) -> list[list[Face]]:
    patches = _patches(views, candidates, 48)
    if not len(patches):
        return [[] for _ in views]
    scores, offsets, landmarks = _in_groups(cascade.judge, patches, PATCHES_JUDGED)
    faces: list[list[Face]] = []
    for own, before in zip(_split(candidates), candidates, strict=True):
        points = before[:, None, 0:2] + landmarks[own] * (before[:, 2:4] - before[:, 0:2])[:, None]
        moved = _moved(before, offsets[own], scores[own])
        found = np.flatnonzero(scores[own] > look.found)
        found = found[_kept(moved[found], 0.7, of_smaller=True)]
        faces.append([_face(moved[index].tolist(), points[index].tolist()) for index in found])
    return faces


def _split(tables: Sequence[np.ndarray]) -> list[slice]:
    """Where the rows of each table lie when all are one."""
    ends = np.cumsum([len(table) for table in tables]).tolist()
    return [slice(end - len(table), end) for end, table in zip(ends, tables, strict=True)]


def _in_groups(net: Callable[[Tensor], Sequence[Tensor]], patches: Tensor, of: int) -> Sequence[np.ndarray]:
    """What the net says of each patch."""
    said = [net(group) for group in patches.split(of)]
    return [torch.cat(each).numpy() for each in zip(*said, strict=True)]


# --- candidates ---


def _seen(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as the nets were trained to see them, (B, 3, h, w)."""
    pixels = torch.from_numpy(np.stack([np.array(image) for image in images]))
    return ((pixels.float() - 127.5) / 128).permute(0, 3, 1, 2)


def _patches(views: Sequence[Sequence[Copy]], candidates: Sequence[np.ndarray], size: int) -> Tensor:
    patches = [
        _patch(copies, square, size)
        for copies, own in zip(views, candidates, strict=True)
        for square in own[:, :4].tolist()
    ]
    return _seen(patches) if patches else torch.zeros(0, 3, size, size)


def _patch(copies: Sequence[Copy], square: list[float], size: int) -> Image.Image:
    """One square of the picture, black outside it, from the smallest copy that is still fine enough."""
    side = square[2] - square[0]
    copy = next((each for each in reversed(copies) if side * each.scale >= size), copies[0])
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


def _kept(candidates: np.ndarray, overlap: float, *, of_smaller: bool = False) -> np.ndarray:
    """Indices, best score first and at most `MOST_CANDIDATES`, without those that a better one overlaps.

    The overlap is a share of the union, or of the smaller one.
    """
    waiting = np.argsort(-candidates[:, 4], kind="stable")
    area = (candidates[:, 2] - candidates[:, 0]) * (candidates[:, 3] - candidates[:, 1])
    kept: list[int] = []
    while len(waiting) and len(kept) < MOST_CANDIDATES:
        best, rest = waiting[0], waiting[1:]
        kept.append(int(best))
        corner = np.maximum(candidates[rest, 0:2], candidates[best, 0:2])
        shared = np.clip(np.minimum(candidates[rest, 2:4], candidates[best, 2:4]) - corner, 0, None).prod(
            axis=1
        )
        whole = np.minimum(area[rest], area[best]) if of_smaller else area[rest] + area[best] - shared
        waiting = rest[shared <= overlap * whole]
    return np.array(kept, dtype=np.intp)
