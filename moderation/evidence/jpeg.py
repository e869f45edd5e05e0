"""What a JPEG shows about its encoder: its tables, their quality, and whose tables they are.

It can show how strongly the last encoder compressed, and that a file is not straight from a camera. It cannot show
forgery: platforms and programs re-encode bona fide pictures all the time.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np
from PIL.JpegPresets import presets

from moderation.evidence.containers import Container
from moderation.evidence.words import Fact, FactKind, Strength, Value

#: The luminance table of the standard (ITU-T T.81, table K.1), row by row; libjpeg scales it by the quality.
_STANDARD = np.array(
    (
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    )
)

#: Chroma subsampling by the samples of the first component against the others.
_SAMPLING = {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0", (4, 1): "4:1:1"}


def jpeg_facts(data: bytes, container: Container) -> Iterator[Fact]:
    tables: Mapping[int, Sequence[int]] = getattr(container.image, "quantization", {})
    luminance = tables.get(0)
    if luminance is None or len(luminance) != 64:
        return
    quality, off = standard_quality(luminance)
    whose = _whose(tables, off)
    found: dict[str, Value] = {
        "quality": quality,
        "tables": whose,
        "encoder": _encoder(data, whose, container),
        "progressive": bool(container.image.info.get("progressive")),
        "tables_digest": sha256(repr(sorted(tables.items())).encode()).hexdigest()[:12],
    }
    if sampling := _sampling(getattr(container.image, "layer", ())):
        found["sampling"] = sampling
    yield Fact(FactKind.JPEG, Strength.CONTEXT, found)


def standard_quality(luminance: Sequence[int]) -> tuple[int, float]:
    """The libjpeg quality, 1 to 100, with the nearest luminance table, and the mean difference per entry."""
    distances = np.abs(_scaled() - np.asarray(luminance)).mean(axis=1)  # (Q,)
    nearest = int(distances.argmin())
    return nearest + 1, float(distances[nearest])


@lru_cache(maxsize=1)
def _scaled() -> np.ndarray:
    """The tables of qualities 1 to 100, (Q, 64), as libjpeg's `jpeg_set_quality` makes them."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_STANDARD * scale + 50) // 100, 1, 255)


def _whose(tables: Mapping[int, Sequence[int]], off: float) -> str:
    if off == 0:
        return "standard"
    if any(list(tables[0]) == list(preset["quantization"][0]) for preset in _photoshop()):
        return "photoshop"
    return "own"


@lru_cache(maxsize=1)
def _photoshop() -> list[Mapping[str, Sequence[Sequence[int]]]]:
    """Photoshop's tables. Pillow has those of "Save for Web" and of the common dialogue."""
    return list(presets.values())  # pyright: ignore[reportReturnType]


def _encoder(data: bytes, whose: str, container: Container) -> str:
    """The family of encoders that wrote the file, as far as markers and tables show."""
    head = data[:65_536]
    if whose == "photoshop" or b"Photoshop 3.0\0" in head or b"Ducky" in head:
        return "photoshop"
    if b"FBMD" in head:
        return "meta"
    if 0x927C in container.taken and whose == "own":
        return "camera"
    return "libjpeg" if whose == "standard" else "other"


def _sampling(layers: Sequence[Sequence[int]]) -> str | None:
    """From Pillow's layers: number, horizontal and vertical samples, table of each component."""
    if len(layers) != 3:
        return None
    (_, across, down, _), (_, across_2, down_2, _), *_ = layers
    return _SAMPLING.get((across // max(across_2, 1), down // max(down_2, 1)))
