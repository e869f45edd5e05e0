"""Traces in the pixels: of an earlier JPEG with another quality, of enlarging, of a platform's size.

`benchmarks/evidence.py` measures them on what they should find and on forgeries of the lab. They show something about
files, not faces: none of them finds a forged face, and bona fide pictures that were saved twice have them too.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from moderation.dfa.gpt.pixels import Picture
from moderation.evidence.words import Fact, FactKind, Strength, Value

#: Side of the middle part that is analysed, in pixels: enough for statistics, at the same cost for large pictures.
_SIDE = 512
#: Shorter sides have too few blocks or periods for statistics.
_LEAST = 128

#: The fact is reported from this score on. On the benchmark it is wrong for at most two of a hundred untreated
#: pictures.
RECOMPRESSED_FROM = 1.4
ENLARGED_FROM = 8.5

#: Longer sides of pictures on platforms, in pixels, as seen in 2024 to 2026. Platforms change them without notice, and
#: anybody can make a picture of that size.
PLATFORM_SIDES: dict[int, tuple[str, ...]] = {
    720: ("Facebook",),
    960: ("Facebook",),
    1080: ("Instagram",),
    1280: ("Telegram",),
    1350: ("Instagram",),
    1440: ("Instagram",),
    1600: ("WhatsApp",),
    2048: ("Facebook", "X"),
    2560: ("Telegram",),
    4096: ("X",),
}


#: Shapes of feeds and stories, width over height.
SHAPES = ((1, 1), (4, 5), (5, 4), (9, 16), (16, 9), (3, 4), (4, 3), (2, 3), (3, 2))

#: Default sizes of generators, shorter side first: Stable Diffusion 1 and 2, the buckets of SDXL (arXiv 2307.01952,
#: appendix I), and OpenAI's image models.
GENERATOR_SIZES = frozenset(
    (
        *((512, 512), (768, 768), (1024, 1024), (832, 1216), (896, 1152), (768, 1344), (640, 1536)),
        *((1024, 1536), (1024, 1792)),
    )
)


def traces(picture: Picture, luminance: Sequence[int] | None) -> Iterator[Fact]:
    """`luminance` is the JPEG's table in row order. None: the file is no JPEG."""
    yield from _platform(picture)
    grey = middle(picture)
    if grey is None:
        return
    enlarged = enlarging(grey)
    if enlarged >= ENLARGED_FROM:
        yield Fact(FactKind.RESAMPLING, Strength.CONTEXT, {"score": round(enlarged, 2)})
    # Turning the picture moved its blocks, unless its sides are multiples of them.
    if luminance is not None and "rotated" not in picture.facts.notes:
        twice = recompression(grey, luminance)
        if twice >= RECOMPRESSED_FROM:
            yield Fact(FactKind.RECOMPRESSION, Strength.CONTEXT, {"score": round(twice, 2)})


def middle(picture: Picture) -> np.ndarray | None:
    """Luminance of the middle, (h, w) float32, cut on the borders of JPEG's blocks. None: too small."""
    height, width = picture.pixels.shape[:2]
    if min(height, width) < _LEAST:
        return None
    top, left = ((side - min(side, _SIDE)) // 2 // 8 * 8 for side in (height, width))
    cut = picture.pixels[top : top + _SIDE, left : left + _SIDE]
    cut = cut[: cut.shape[0] // 8 * 8, : cut.shape[1] // 8 * 8]
    return cut @ np.array((0.299, 0.587, 0.114), dtype=np.float32)


def _platform(picture: Picture) -> Iterator[Fact]:
    width, height = picture.facts.width, picture.facts.height
    shorter, longer = sorted((width, height))
    platforms, generators = PLATFORM_SIDES.get(longer, ()), (shorter, longer) in GENERATOR_SIZES
    if not platforms and not generators:
        return
    found: dict[str, Value] = {"longer_side": longer, "platforms": platforms, "generators": generators}
    # Within a pixel, because sides are whole numbers.
    for across, down in SHAPES:
        if abs(width * down - height * across) <= max(across, down):
            found["shape"] = f"{across}:{down}"
            break
    yield Fact(FactKind.PLATFORM, Strength.CONTEXT, found)


# --- enlarged


def enlarging(grey: np.ndarray) -> float:
    """How periodic the curvature of the rows and columns is: interpolated pixels are smoother than their neighbours.

    Gallagher, "Detection of linear and cubic interpolation in JPEG compressed images" (CRV 2005). The periods of JPEG's
    own blocks are left out, so enlarging by 2 or 4/3 is not found. Strong compression afterwards hides the rest. A
    larger value means more: it is the highest peak over the median of the spectrum.
    """
    return max(_peak(grey), _peak(grey.T))


def _peak(grey: np.ndarray) -> float:
    # Capped, so that a few strong edges do not outweigh all flat parts.
    curvature = np.minimum(np.abs(np.diff(grey, n=2, axis=1)), 4).mean(axis=0)  # (w - 2,)
    # Slow changes along the picture are its content.
    smooth = np.convolve(np.pad(curvature, 8, mode="reflect"), np.ones(17) / 17, mode="valid")
    spectrum = np.abs(np.fft.rfft((curvature - smooth) * np.hanning(len(curvature))))
    frequency = np.fft.rfftfreq(len(curvature))
    nearest_block = np.abs(frequency * 8 - np.round(frequency * 8)) / 8
    looked_at = (frequency > 0.1) & (nearest_block > 3 / len(curvature))
    return float(spectrum[looked_at].max() / (np.median(spectrum[looked_at]) + 1e-9))


# --- compressed before


#: The cosine transform of eight samples (ITU-T T.81, A.3.3), (8, 8).
_COSINES = np.array(
    [
        [np.sqrt((1 if k == 0 else 2) / 8) * np.cos((2 * n + 1) * k * np.pi / 16) for n in range(8)]
        for k in range(8)
    ],
    dtype=np.float32,
)
#: The analysed coefficients: row and column in a block. Higher ones are mostly 0.
_MODES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0))
#: Bins of a coefficient's histogram on each side of 0.
_BINS = 32


def recompression(grey: np.ndarray, luminance: Sequence[int]) -> float:
    """How periodic the histograms of coefficients are: after two quantisations every few bins are empty or too full.

    Popescu and Farid, "Statistical tools for digital forensics" (IH 2004). It sees that the first quality was
    different, mostly lower, with the same blocks. It does not see crops or scaling in between. A larger value means
    more.
    """
    height, width = grey.shape
    blocks = (grey - 128).reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3)  # (H/8, W/8, 8, 8)
    coefficients = _COSINES @ blocks @ _COSINES.T
    scores = [
        _periodic(np.rint(coefficients[..., row, column].ravel() / luminance[8 * row + column]))
        for row, column in _MODES
    ]
    return float(np.mean(sorted(scores)[-4:]))


def _periodic(values: np.ndarray) -> float:
    counts, _ = np.histogram(values, bins=2 * _BINS + 1, range=(-_BINS - 0.5, _BINS + 0.5))
    counts[_BINS] = (counts[_BINS - 1] + counts[_BINS + 1]) // 2  # 0 is always a peak of its own
    root = np.sqrt(counts.astype(np.float32))
    smooth = np.convolve(np.pad(root, 3, mode="reflect"), np.ones(7) / 7, mode="valid")
    spectrum = np.abs(np.fft.rfft(root - smooth))
    return float(spectrum[8:].max() / (smooth.sum() / 8 + 1))
