"""Pixels to PDQ hashes. Needs NumPy; the web does not import it.

This is PDQ as Meta publishes it (facebook/ThreatExchange, `pdq/`, "The TMK+PDQF video-hashing algorithm and the PDQ
image-hashing algorithm"): luminance, a box filter twice each way, 64 by 64 samples, the lowest 16 by 16 frequencies of
their cosine transform without the constant ones, each above or below their median. The Python binding `pdqhash` has no
wheels and would need a C++ compiler at every installation. The tests compare with its hashes.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from PIL import Image

from moderation.likeness import ENOUGH_QUALITY, Likeness

#: A picture is reduced by whole numbers while its longer side stays at least so many pixels. PDQ samples only 64 by 64,
#: so more would only take longer.
_SIDE = 256
#: Pixels that are reduced at a time.
_STRIP = 1_000_000
#: Samples each way, and frequencies each way.
_SAMPLES, _KEPT = 64, 16
#: Weights of red, green and blue (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

_FREQUENCIES = np.arange(1, _KEPT + 1)[:, None]
#: (16, 64): a row for each frequency.
_COSINES = (
    np.sqrt(2 / _SAMPLES) * np.cos(np.pi / 2 / _SAMPLES * _FREQUENCIES * (2 * np.arange(_SAMPLES) + 1))
).astype(np.float32)
#: Effect of a mirror on the frequencies from left to right: odd ones change sign.
_MIRROR = np.where(np.arange(1, _KEPT + 1) % 2, -1, 1).astype(np.float32)


def look_at(pixels: np.ndarray) -> Likeness | None:
    """The likeness of a picture, (H, W, 3) uint8. None: the picture shows too little."""
    frequencies, quality = _transform(pixels)
    if quality < ENOUGH_QUALITY:
        return None
    return Likeness(_bits(frequencies), _bits(frequencies * _MIRROR), quality)


def with_faces(likeness: Likeness, crops: Iterable[np.ndarray]) -> Likeness:
    """The same with hashes of the picture's face crops, without crops that show too little."""
    hashed = [_transform(crop) for crop in crops]
    faces = tuple(_bits(frequencies) for frequencies, quality in hashed if quality >= ENOUGH_QUALITY)
    return dataclasses.replace(likeness, faces=faces)


def _transform(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """The frequencies (16, 16), and the quality from 0 to 100."""
    luma = _small(pixels).astype(np.float32) @ _LUMA
    for _ in range(2):
        luma = _box(_box(luma).T).T
    samples = luma[np.ix_(_places(luma.shape[0]), _places(luma.shape[1]))]
    return _COSINES @ samples @ _COSINES.T, _quality(samples)


def _small(pixels: np.ndarray) -> np.ndarray:
    by = max(pixels.shape[:2]) // _SIDE
    if by < 2:
        return pixels
    # In strips, whose memory is used again: fresh memory for a copy of twelve megapixels costs twice the reduction.
    rows = by * max(1, _STRIP // (by * pixels.shape[1]))
    strips = (pixels[top : top + rows] for top in range(0, len(pixels), rows))
    return np.concatenate([np.asarray(Image.fromarray(strip).reduce(by)) for strip in strips])


def _box(luma: np.ndarray) -> np.ndarray:
    """The mean of a window along each row, half a sample wide. At the ends only its inner part counts."""
    n = luma.shape[1]
    window = (n + 2 * _SAMPLES - 1) // (2 * _SAMPLES)
    right = (window + 2) // 2
    sums = np.concatenate([np.zeros((len(luma), 1)), np.cumsum(luma, axis=1, dtype=np.float64)], axis=1)
    places = np.arange(n)
    first, last = np.maximum(0, places - (window - right)), np.minimum(n, places + right)
    return ((sums[:, last] - sums[:, first]) / (last - first)).astype(np.float32)


def _places(n: int) -> np.ndarray:
    """The indexes of the samples among n."""
    return ((np.arange(_SAMPLES) + 0.5) * n / _SAMPLES).astype(int)


def _quality(samples: np.ndarray) -> int:
    steps = (samples[1:] - samples[:-1], samples[:, 1:] - samples[:, :-1])
    return min(100, int(sum(np.abs(np.trunc(step * 100 / 255)).sum() for step in steps)) // 90)


def _bits(frequencies: np.ndarray) -> int:
    """The hash. The last frequency is the first bit. The median is the lower middle one, so half of the bits are 1."""
    flat = frequencies.ravel()
    above = flat > np.sort(flat)[len(flat) // 2 - 1]
    return int.from_bytes(np.packbits(above[::-1]).tobytes())
