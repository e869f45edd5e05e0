"""Maps of faces on the picture: where pixels look foreign, as cells of a few levels, and in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from moderation.analysis import FaceAnalysis, ForeignMap

#: Levels of the map, each with the value in [0, 1] where it begins. Lower values are not drawn.
LEVELS = ((1, 0.25), (2, 0.5), (3, 0.7), (4, 0.85))


@dataclass(frozen=True)
class MapCell:
    """A row of neighbouring cells with the same level, in units of the grid."""

    level: int
    x: int
    y: int
    width: int


@dataclass(frozen=True)
class FaceMap:
    """The map of one face, by its number on the picture."""

    number: int
    cells: tuple[MapCell, ...]
    #: SVG's transform from cells to pixels of the picture.
    transform: str
    #: Where it is highest.
    words: str


def maps(faces: Sequence[FaceAnalysis]) -> tuple[FaceMap, ...]:
    return tuple(
        FaceMap(number, tuple(_cells(face.foreign)), _transform(face.foreign), _words(face.foreign))
        for number, face in enumerate(faces, start=1)
        if face.foreign is not None
    )


def _cells(foreign: ForeignMap) -> Iterator[MapCell]:
    for y in range(foreign.side):
        row = foreign.values[y * foreign.side : (y + 1) * foreign.side]
        x = 0
        for level, run in groupby(row, key=_level):
            width = len(list(run))
            if level:
                yield MapCell(level, x, y, width)
            x += width


def _level(value: int) -> int:
    return max((level for level, start in LEVELS if value / 255 >= start), default=0)


def _transform(foreign: ForeignMap) -> str:
    top_left, top_right, _, bottom_left = foreign.corners
    across = ((top_right.x - top_left.x) / foreign.side, (top_right.y - top_left.y) / foreign.side)
    down = ((bottom_left.x - top_left.x) / foreign.side, (bottom_left.y - top_left.y) / foreign.side)
    numbers = (*across, *down, top_left.x, top_left.y)
    return f"matrix({' '.join(f'{number:.3f}' for number in numbers)})"


def _words(foreign: ForeignMap) -> str:
    named = [region.value.replace("_", " ") for region in foreign.highest]
    if named:
        *before, last = named
        return f"highest at the {', '.join(before)} and the {last}" if before else f"highest at the {last}"
    if max(foreign.values) / 255 >= LEVELS[1][1]:
        return "high in places, and in no region as a whole"
    return "low everywhere"
