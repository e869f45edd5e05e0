"""Places on a face, from its five landmarks, and the masks of forgeries.

Every place is drawn once on a canonical face. The affine map that best fits the landmarks carries it to the picture, so
rotated and tilted faces work too. S is the side of the picture in pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from moderation.analysis import Point, Region
from moderation.dfa.instruct.draws import Rng, picked

#: Left eye, right eye, nose, corners of the mouth on a face of 112 pixels (the template of ArcFace, 1801.07698).
CANONICAL = np.array([(38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2)])

Polygon = Sequence[tuple[float, float]]


def _ellipse(x: float, y: float, across: float, down: float) -> Polygon:
    """Centre and half axes, canonical pixels."""
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return [(x + across * np.cos(turn), y + down * np.sin(turn)) for turn in turns]


#: The face from the upper forehead to the chin, which a face swap replaces.
OUTLINE: Polygon = (
    (56, 10), (76, 13), (92, 26), (98, 48), (97, 72), (91, 94), (78, 112), (56, 122),
    (34, 112), (21, 94), (15, 72), (14, 48), (20, 26), (36, 13),
)  # fmt: skip

#: Parts of the face that swaps and blends also replace.
INNER_FACE: Polygon = ((30, 34), (82, 34), (94, 56), (84, 92), (56, 112), (28, 92), (18, 56))
LOWER_FACE: Polygon = ((20, 60), (56, 54), (92, 60), (95, 80), (78, 112), (56, 122), (34, 112), (17, 80))
EYES_TO_MOUTH: Polygon = ((24, 40), (56, 36), (88, 40), (80, 80), (74, 100), (56, 106), (38, 100), (32, 80))

#: The places that a forgery can touch, in canonical pixels. Drawn by hand on the template; the eyes include the brows.
PARTS: Mapping[Region, tuple[Polygon, ...]] = {
    Region.FOREHEAD: (((36, 13), (76, 13), (88, 26), (82, 38), (56, 36), (30, 38), (24, 26)),),
    Region.EYES: (_ellipse(38, 49, 15, 11), _ellipse(74, 49, 15, 11)),
    Region.NOSE: (((51, 50), (61, 50), (66, 70), (69, 79), (56, 83), (43, 79), (46, 70)),),
    Region.CHEEKS: (_ellipse(28, 74, 11, 15), _ellipse(84, 74, 11, 15)),
    Region.MOUTH: (_ellipse(56, 93, 21, 11),),
    Region.JAWLINE: (
        ((15, 80), (21, 94), (34, 112), (56, 122), (78, 112), (91, 94), (97, 80), (88, 88), (72, 106), (56, 109),
         (40, 106), (24, 88)),
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Geometry:
    """One face in a square picture."""

    size: int  # S, pixels
    #: (2, 3): canonical pixels to the picture's pixels.
    frame: np.ndarray

    @property
    def unit(self) -> float:
        """Pixels of the picture per canonical pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.frame[:, :2]))))

    def place(self, points: Polygon | np.ndarray) -> np.ndarray:
        """Canonical points (N, 2) in the picture's pixels."""
        return np.asarray(points, dtype=float) @ self.frame[:, :2].T + self.frame[:, 2]


@dataclass(frozen=True, eq=False)
class Portrait:
    """A bona fide face, to forge or to take parts from."""

    pixels: np.ndarray  # (S, S, 3) uint8 RGB
    face: Geometry


def geometry(landmarks: Sequence[Point] | np.ndarray, size: int) -> Geometry:
    """Fit the canonical face to five landmarks given in pixels of a square picture of this size."""
    seen = np.asarray(landmarks, dtype=float)  # (5, 2)
    known = np.hstack([CANONICAL, np.ones((5, 1))])
    frame, *_ = np.linalg.lstsq(known, seen, rcond=None)
    return Geometry(size=size, frame=frame.T)


def fill(polygons: Sequence[np.ndarray], size: int) -> np.ndarray:
    """(S, S) float32: 1 inside any of the polygons, given in pixels."""
    image = Image.new("L", (size, size))
    draw = ImageDraw.Draw(image)
    for polygon in polygons:
        draw.polygon([(float(x), float(y)) for x, y in polygon], fill=255)
    return np.asarray(image, dtype=np.float32) / 255


def part_mask(face: Geometry, region: Region) -> np.ndarray:
    """The mask of a region, (S, S) in {0, 1}."""
    return fill([face.place(polygon) for polygon in PARTS[region]], face.size)


def outline_mask(face: Geometry) -> np.ndarray:
    """The whole face from forehead to chin, (S, S) in {0, 1}."""
    return fill([face.place(OUTLINE)], face.size)


def blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of a mask; `radius` is the standard deviation in pixels."""
    image = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, dtype=np.float32) / 255


def deformed_polygon(polygon: np.ndarray, amount: float, rng: Rng) -> np.ndarray:
    """Move each corner of a polygon by a random share, up to ±`amount`, of its distance to the centre."""
    centre = polygon.mean(axis=0)
    return centre + (polygon - centre) * (1 + rng.uniform(-amount, amount, (len(polygon), 1)))


def swap_mask(face: Geometry, rng: Rng) -> np.ndarray:
    """The mask of a face swap: the hull of the face or of a part, deformed, soft and sometimes translucent.

    The order (hull, deform, blur twice, scale) follows self-blended images (Shiohara and Yamasaki, CVPR 2022).
    """
    shape = picked((OUTLINE, OUTLINE, INNER_FACE, LOWER_FACE, EYES_TO_MOUTH), rng)
    polygon = deformed_polygon(face.place(shape), 0.10, rng)
    mask = blurred(fill([polygon], face.size), rng.uniform(0.5, 5) * face.unit)
    mask = blurred(mask / max(float(mask.max()), 1e-3), rng.uniform(0.3, 2) * face.unit)
    return mask * float(rng.choice([0.5, 0.75, 1, 1, 1, 1]))


def feature_mask(face: Geometry, region: Region, rng: Rng) -> np.ndarray:
    """A feathered patch over one region, a little larger or smaller than the region."""
    grown = []
    for polygon in PARTS[region]:
        placed = face.place(polygon)
        centre = placed.mean(axis=0)
        grown.append(deformed_polygon(centre + (placed - centre) * rng.uniform(0.95, 1.3), 0.08, rng))
    return blurred(fill(grown, face.size), rng.uniform(0.4, 2.5) * face.unit)


def region_changes(before: np.ndarray, after: np.ndarray, face: Geometry) -> Mapping[Region, float]:
    """The mean change of every region between two aligned pictures, in grey levels.

    For speed it uses every fourth pixel in each direction: regions are larger than that.
    """
    step = 4
    change = change_between(before[::step, ::step], after[::step, ::step])
    small = Geometry(size=change.shape[0], frame=face.frame / step)
    return {region: mean_within(change, part_mask(small, region)) for region in PARTS}


def change_between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The mean change of each pixel's channels, in grey levels, (S, S) float32."""
    return np.abs(after.astype(np.float32) - before).mean(axis=2)


def mean_within(values: np.ndarray, mask: np.ndarray) -> float:
    """The mean of values (S, S) under a mask. 0 where it is empty."""
    return float((values * mask).sum()) / max(float(mask.sum()), 1.0)
