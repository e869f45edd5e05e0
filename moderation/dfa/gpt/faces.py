"""Where the faces are, with five landmarks each, and which of them nobody could judge.

The cascade of MTCNN (arXiv 1604.02878): a pyramid of small copies is scanned for candidates, which two further
nets judge at 24 and 48 pixels. Its weights come inside an installable package (`mtcnn.py`). How often it finds
what is there, and what it costs, is measured by `benchmarks/faces.py`.

Pictures that are mostly text are not recognised here yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from moderation.analysis import Abstain, Box, Face, Point
from moderation.dfa.gpt.mtcnn import Nets, nets
from moderation.dfa.gpt.pixels import Picture, crop_face

# N candidates, L = 5 landmarks. A table of candidates is (N, 5): left, top, right, bottom in pixels of the
# picture, and a score in [0, 1].

#: Part of every fingerprint. Raised when the same pixels can give other faces or another abstention.
FACES_VERSION: int = 1

#: The smallest face that is looked for, in pixels of the longer side of its box.
SMALLEST_FACE = 24
#: Longer side in pixels of the finest copy that is scanned. Larger pictures are looked at for larger faces only:
#: in a picture of 4,000 pixels, for faces from 94.
LONGEST_SCAN = 512
#: The window of the proposal net, and its step, in pixels.
WINDOW, STEP = 12, 2
#: Border around every copy, in its own pixels: a face that is cut by the frame, or fills it, gets a surround.
BORDER = 8
#: What a border is made of, as the nets see it: black.
BLACK = -127.5 / 128

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


#: The thresholds of the package that the weights come from; each copy has half the pixels of the one before.
FIRST_LOOK = Look(shrink=0.7071, proposed=0.6, refined=0.7, found=0.8)
#: Taken when the first finds nothing: in the picture with its contrast stretched, for one face that fills the
#: frame. Dim pictures, profiles and forgeries that came out broken get low scores. Without this look 8 % of the
#: forged and 4 % of the bona fide crops of DFDC were lost, and the gate itself told the two apart. The price: of
#: 1,000 pictures cut from backgrounds it sees a face in 16; the first look alone does in 3.
SECOND_LOOK = Look(shrink=0.84, proposed=0.3, refined=0.1, found=0.3)
#: Share of the picture's shorter side that a box of the second look must have.
FILLS_THE_FRAME = 0.4

#: Candidates that go on from one stage, best first. A picture of noise or of a crowd costs no more than this.
MOST_CANDIDATES = 256


def find_faces(picture: Picture, *, at_most: int = 8) -> list[Face]:
    """The faces of a picture, largest first, in upright pixels. Many threads may call this at once."""
    with torch.inference_mode():
        faces = _search(picture, FIRST_LOOK) or _filling(picture, _search(_stretched(picture), SECOND_LOOK))
    return sorted(faces, key=lambda face: face.box.width * face.box.height, reverse=True)[:at_most]


def _stretched(picture: Picture) -> Picture:
    """With its luminance stretched over the whole range, but for a hundredth at either end. Only to search in."""
    image = ImageOps.autocontrast(Image.fromarray(picture.pixels), cutoff=1, preserve_tone=True)
    return Picture(np.array(image), picture.facts)


def _filling(picture: Picture, faces: Sequence[Face]) -> list[Face]:
    """The likeliest of the faces that fill the frame, or none."""
    enough = FILLS_THE_FRAME * min(picture.pixels.shape[:2])
    filling = [face for face in faces if min(face.box.width, face.box.height) >= enough]
    return sorted(filling, key=lambda face: face.confidence, reverse=True)[:1]


def _search(picture: Picture, look: Look) -> list[Face]:
    cascade = nets()
    copies = _copies(picture, look)
    candidates = _proposed(cascade, copies, look)
    candidates = _refined(cascade, copies, candidates, look)
    found, landmarks = _judged(cascade, copies, candidates, look)
    return [_face(row, points) for row, points in zip(found.tolist(), landmarks.tolist(), strict=True)]


def unjudgeable(picture: Picture, face: Face) -> Abstain | None:
    """Why nobody could judge this face, or None. Says nothing about who or what made the picture."""
    if min(face.box.width, face.box.height) < SMALLEST_JUDGED:
        return Abstain.FACE_TOO_SMALL
    if sharpness(picture, face) < SHARPEST_HOPELESS:
        return Abstain.TOO_BLURRED
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
    """The picture, or a smaller copy of it."""

    image: Image.Image
    scale: float  # pixels of the copy per pixel of the picture


def _copies(picture: Picture, look: Look) -> list[Copy]:
    """The picture, then smaller and smaller copies until a face that fills the frame fits into one window."""
    whole = Copy(Image.fromarray(picture.pixels), 1.0)
    longer = max(whole.image.size)
    scale = min(WINDOW / SMALLEST_FACE, LONGEST_SCAN / longer)
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


def _proposed(cascade: Nets, copies: Sequence[Copy], look: Look) -> np.ndarray:
    """Windows of every copy that may hold a face, as squares."""
    tables = [_scanned(cascade, copy, look) for copy in copies[1:]]
    candidates = np.concatenate([table[_kept(table, 0.5)] for table in tables])
    return _squared(candidates[_kept(candidates, 0.7)])


def _scanned(cascade: Nets, copy: Copy, look: Look) -> np.ndarray:
    """The windows of one copy that the proposal net likes, moved as it says."""
    framed = functional.pad(_seen([copy.image]), (BORDER, BORDER, BORDER, BORDER), value=BLACK)
    scores, offsets = (each.numpy() for each in cascade.propose(framed))  # (H, W), (H, W, 4)
    rows, columns = np.nonzero(scores > look.proposed)
    corners = np.stack([columns, rows], axis=1) * STEP - BORDER  # (N, 2)
    windows = np.concatenate([corners, corners + WINDOW], axis=1) + offsets[rows, columns] * WINDOW
    return np.concatenate([windows / copy.scale, scores[rows, columns, None]], axis=1)


def _refined(cascade: Nets, copies: Sequence[Copy], candidates: np.ndarray, look: Look) -> np.ndarray:
    if not len(candidates):
        return candidates
    scores, offsets = (each.numpy() for each in cascade.refine(_patches(copies, candidates, 24)))
    likely = scores > look.refined
    moved = _moved(candidates, offsets, scores)[likely]
    return _squared(moved[_kept(moved, 0.7)])


def _judged(
    cascade: Nets, copies: Sequence[Copy], candidates: np.ndarray, look: Look
) -> tuple[np.ndarray, np.ndarray]:
    """The faces, (N, 5), and their landmarks, (N, L, 2)."""
    if not len(candidates):
        return candidates, np.zeros((0, 5, 2))
    patches = _patches(copies, candidates, 48)
    scores, offsets, landmarks = (each.numpy() for each in cascade.judge(patches))
    sides = (candidates[:, 2:4] - candidates[:, 0:2])[:, None]
    points = candidates[:, None, 0:2] + landmarks * sides
    moved = _moved(candidates, offsets, scores)
    found = np.flatnonzero(scores > look.found)
    found = found[_kept(moved[found], 0.7, of_smaller=True)]
    return moved[found], points[found]


# --- candidates ---


def _seen(images: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as the nets were trained to see them, (B, 3, h, w)."""
    pixels = torch.from_numpy(np.stack([np.array(image) for image in images]))
    return ((pixels.float() - 127.5) / 128).permute(0, 3, 1, 2)


def _patches(copies: Sequence[Copy], candidates: np.ndarray, size: int) -> Tensor:
    return _seen([_patch(copies, square, size) for square in candidates[:, :4].tolist()])


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
