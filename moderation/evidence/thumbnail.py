"""The thumbnail in EXIF. Cameras make it, and careless programs leave the old one.

It can show that the whole picture was changed later: cropped, replaced, turned. A forged face in a large picture is too
small to be seen in it.
"""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.ExifTags import IFD

from moderation.dfa.gpt.pixels import TURNS, Picture
from moderation.evidence.containers import Container
from moderation.evidence.words import Fact, FactKind, Status, Strength

_OFFSET, _LENGTH, _ORIENTATION = 0x0201, 0x0202, 0x0112
#: Bytes and pixels of a thumbnail that are decoded. EXIF allows 64 KB.
_MOST_BYTES, _MOST_PIXELS = 65_536, 1_000_000
#: Side of the compared squares, in pixels.
_SIDE = 32
#: The two count as different below this correlation. Pictures of one scene stay above .9; black bars for 4:3, or a
#: small crop, lower it a little.
DIFFERS_BELOW = 0.6


def thumbnail_facts(container: Container, picture: Picture) -> Iterator[Fact]:
    place = container.exif.get_ifd(IFD.IFD1)
    start, size = place.get(_OFFSET), place.get(_LENGTH)
    if not (isinstance(start, int) and isinstance(size, int)):
        return
    data = container.exif_block[start : start + min(size, _MOST_BYTES)]
    small = _decoded(data)
    if small is None:
        yield Fact(FactKind.THUMBNAIL, Strength.CONTEXT, status=Status.UNREADABLE)
        return
    turn = TURNS.get(container.exif.get(_ORIENTATION, 1))
    upright = small if turn is None else small.transpose(turn)
    large = _square(_thinned(picture.pixels))
    likeness = max(_likeness(_square(cut), large) for cut in _without_bars(np.asarray(upright)))
    differs = likeness < DIFFERS_BELOW
    yield Fact(
        FactKind.THUMBNAIL,
        Strength.ANOMALY if differs else Strength.CONTEXT,
        {
            "width": upright.width,
            "height": upright.height,
            "likeness": round(likeness, 2),
            "differs": differs,
        },
    )


def _decoded(data: bytes) -> Image.Image | None:
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if image.width * image.height > _MOST_PIXELS or min(image.size) < 16:
            return None
        return image.convert("L")
    except Exception:  # noqa: BLE001  a plugin raises whatever its parser trips over
        return None


def _without_bars(grey: np.ndarray) -> Iterator[np.ndarray]:
    """The thumbnail, with and without black bars: cameras pad theirs to 4:3."""
    yield grey
    rows, columns = (np.flatnonzero(grey.max(axis=axis) > 24) for axis in (1, 0))
    if len(rows) > 16 and len(columns) > 16:
        yield grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two squares, in [-1, 1]. 1 when both have only one colour."""
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return 1.0 if norm < 1e-3 else float((one * other).sum()) / norm


def _thinned(pixels: np.ndarray) -> np.ndarray:
    """Only some pixels of a large picture: it is averaged to a small square later."""
    step = max(1, min(pixels.shape[:2]) // (8 * _SIDE))
    return np.ascontiguousarray(pixels[::step, ::step])


def _square(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32)
