"""The place of a named region on a picture: approximate outlines from five landmarks.

The frame's origin is between the eyes. x points to the right eye; its unit is half the distance of the eyes. y points
to the mouth; its unit is the distance from the eyes to the mouth. Outlines are fixed in this frame, so they tilt and
shear with the face. They only say where to look. On a strong profile they would miss the face, so there are none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from moderation.analysis import Artifact, Face, Point, Region
from moderation.dfa.gpt.pixels import in_crop

_Outline = Sequence[tuple[float, float]]

#: Polygons in the face's frame: eyes at (−1, 0) and (1, 0), the middle of the mouth at (0, 1).
_OUTLINES: Mapping[Region, Sequence[_Outline]] = {
    Region.FOREHEAD: [[(-1.5, -0.45), (-1.3, -1.0), (0, -1.15), (1.3, -1.0), (1.5, -0.45)]],
    Region.HAIRLINE: [[(-1.8, -0.6), (-1.5, -1.25), (0, -1.5), (1.5, -1.25), (1.8, -0.6), (1.3, -0.9), (-1.3, -0.9)]],
    Region.EYES: [[(-1.7, -0.4), (1.7, -0.4), (1.7, 0.25), (-1.7, 0.25)]],
    Region.NOSE: [[(-0.3, -0.1), (0.3, -0.1), (0.6, 0.7), (-0.6, 0.7)]],
    Region.CHEEKS: [
        [(-1.9, 0.3), (-0.7, 0.3), (-0.7, 0.95), (-1.6, 1.1)],
        [(1.9, 0.3), (0.7, 0.3), (0.7, 0.95), (1.6, 1.1)],
    ],
    Region.MOUTH: [[(-1.0, 0.75), (1.0, 0.75), (0.9, 1.3), (-0.9, 1.3)]],
    Region.JAWLINE: [
        [(-1.9, 0.8), (-1.5, 0.8), (-0.9, 1.45), (0.9, 1.45), (1.5, 0.8), (1.9, 0.8), (1.0, 1.85), (-1.0, 1.85)]
    ],
    Region.EARS: [
        [(-2.4, -0.3), (-1.9, -0.3), (-1.9, 0.8), (-2.2, 0.8)],
        [(2.4, -0.3), (1.9, -0.3), (1.9, 0.8), (2.2, 0.8)],
    ],
    Region.NECK: [[(-1.2, 1.8), (1.2, 1.8), (1.3, 2.6), (-1.3, 2.6)]],
    # The whole face: artifacts of its boundary or skin show all over it.
    Region.FACE_BOUNDARY: [
        [(-1.9, -0.3), (-1.4, -1.1), (0, -1.3), (1.4, -1.1), (1.9, -0.3), (1.7, 1.1), (0, 1.9), (-1.7, 1.1)]
    ],
    Region.SKIN: [
        [(-1.7, -0.3), (-1.2, -0.9), (0, -1.05), (1.2, -0.9), (1.7, -0.3), (1.5, 1.0), (0, 1.7), (-1.5, 1.0)]
    ],
}  # fmt: skip


def with_outlines(artifacts: Iterable[Artifact], face: Face) -> tuple[Artifact, ...]:
    """The artifacts with one outline each, in pixels of the upright picture. Outlines may cross its borders."""
    return tuple(replace(artifact, polygon=outline(artifact.regions, face)) for artifact in artifacts)


def within(artifacts: Iterable[Artifact], *, width: int, height: int) -> tuple[Artifact, ...]:
    """The artifacts with their outlines clamped to a picture of this size."""
    return tuple(
        replace(
            artifact,
            polygon=artifact.polygon
            and tuple(Point(min(max(x, 0.0), width), min(max(y, 0.0), height)) for x, y in artifact.polygon),
        )
        for artifact in artifacts
    )


def outline(regions: Sequence[Region], face: Face) -> tuple[Point, ...] | None:
    """One polygon around all of the regions. None when an outline would mislead.

    That is: without landmarks, when the nose is not between the eyes (a face turned far away), or when no region has a
    place on a face (background, lighting, unmapped).
    """
    corners = [corner for region in regions for part in _OUTLINES.get(region, ()) for corner in part]
    if not corners or face.landmarks is None or _turned_away(face.landmarks):
        return None
    hull = _convex_hull(_in_picture(face.landmarks, x, y) for x, y in corners)
    return hull if len(hull) >= 3 else None


def outlines(regions: Iterable[Region], face: Face) -> tuple[tuple[Point, ...], ...]:
    """The polygons of all of the regions, one by one. Empty when `outline` gives None."""
    if face.landmarks is None or _turned_away(face.landmarks):
        return ()
    landmarks = face.landmarks
    return tuple(
        tuple(_in_picture(landmarks, x, y) for x, y in part)
        for region in regions
        for part in _OUTLINES.get(region, ())
    )


def drawn(parts: Iterable[Sequence[Point]], face: Face, size: int) -> np.ndarray:
    """(size, size) bool: the pixels of the face's upright crop within these polygons of the picture."""
    sheet = Image.new("1", (size, size))
    pen = ImageDraw.Draw(sheet)
    for part in parts:
        pen.polygon([(p.x, p.y) for p in in_crop(face, size, part)], fill=1)
    return np.array(sheet, dtype=bool)


def _turned_away(landmarks: Sequence[Point]) -> bool:
    """True when the nose, projected onto the line of the eyes, does not lie between them."""
    left, right, nose = landmarks[:3]
    dx, dy = right.x - left.x, right.y - left.y
    span = dx * dx + dy * dy
    along = ((nose.x - left.x) * dx + (nose.y - left.y) * dy) / span if span else -1.0
    return not 0.0 < along < 1.0


def _in_picture(landmarks: Sequence[Point], x: float, y: float) -> Point:
    left, right, _, mouth_left, mouth_right = landmarks
    middle = Point((left.x + right.x) / 2, (left.y + right.y) / 2)
    across = Point((right.x - left.x) / 2, (right.y - left.y) / 2)
    down = Point((mouth_left.x + mouth_right.x) / 2 - middle.x, (mouth_left.y + mouth_right.y) / 2 - middle.y)
    return Point(middle.x + x * across.x + y * down.x, middle.y + x * across.y + y * down.y)


def _convex_hull(points: Iterable[Point]) -> tuple[Point, ...]:
    """Andrew's monotone chain. The hull is counter-clockwise when y points up."""
    ordered = sorted({Point(round(x, 1), round(y, 1)) for x, y in points})
    if len(ordered) < 3:
        return tuple(ordered)
    lower, upper = _chain(ordered), _chain(ordered[::-1])
    return tuple(lower[:-1] + upper[:-1])


def _chain(points: Sequence[Point]) -> list[Point]:
    kept: list[Point] = []
    for point in points:
        while len(kept) >= 2 and _turn(kept[-2], kept[-1], point) <= 0:
            kept.pop()
        kept.append(point)
    return kept


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x)
