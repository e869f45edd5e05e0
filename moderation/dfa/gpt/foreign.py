"""The evidence map: where pixels look foreign to the tower. It is small enough to store with the analysis."""

import numpy as np

from moderation.analysis import Face, ForeignMap, Point, Region
from moderation.dfa.gpt.pixels import crop_corners
from moderation.dfa.gpt.regions import drawn, outlines

#: The compared regions. A face's boundary and skin are left out: they overlap all others.
NAMED = (
    Region.FOREHEAD, Region.HAIRLINE, Region.EYES, Region.NOSE, Region.CHEEKS, Region.MOUTH, Region.JAWLINE,
    Region.EARS, Region.NECK,
)  # fmt: skip
#: A region is high from this mean on, in [0, 1]: its pixels look more foreign than not.
HIGH = 0.5
#: Most regions named.
MOST = 3
#: Side of a map's cell while regions are drawn, pixels.
_CELL = 8


def foreign_map(face: Face, values: np.ndarray) -> ForeignMap:
    """The stored form of a map (G, G) in [0, 1], rows from the top of the face's upright crop."""
    return ForeignMap(
        side=len(values),
        values=(255 * values).round().clip(0, 255).astype(np.uint8).tobytes(),
        corners=_rounded(crop_corners(face)),
        highest=_highest(face, values),
    )


def _rounded(corners: tuple[Point, Point, Point, Point]) -> tuple[Point, Point, Point, Point]:
    first, second, third, fourth = (Point(round(x, 1), round(y, 1)) for x, y in corners)
    return first, second, third, fourth


def _highest(face: Face, values: np.ndarray) -> tuple[Region, ...]:
    means = {region: _mean_in(face, region, values) for region in NAMED}
    high = sorted((region for region in NAMED if means[region] >= HIGH), key=lambda region: -means[region])
    return tuple(high[:MOST])


def _mean_in(face: Face, region: Region, values: np.ndarray) -> float:
    """The map's mean over a region, cells weighted by their overlap. 0 when the region is not in the crop."""
    side = len(values)
    mask = drawn(outlines([region], face), face, side * _CELL)
    parts = mask.reshape(side, _CELL, side, _CELL).mean(axis=(1, 3))
    return float((parts * values).sum() / parts.sum()) if parts.any() else 0.0
