"""Renditions of a picture, made where it is decoded: a thumbnail for lists, and a copy that browsers can show.

They are made of pixels, not of the file: nothing hostile in the file reaches them.
"""

import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from moderation.database.renditions import NOT_SHOWN, Renditions
from moderation.dfa.gpt.pixels import Picture

#: Longer side of a thumbnail, pixels. Lists show it at half this size, for screens with twice the pixels.
THUMBNAIL_SIDE = 192
#: Pixels of the copy for browsers, at most. Most cameras' pictures keep their size: reviewers look at single pixels.
MOST_PIXELS = 2**24


def with_renditions(decode: Callable[[bytes], Picture]) -> Callable[[bytes], Picture]:
    """The same decoder, whose pictures carry their renditions."""

    def decode_and_render(data: bytes) -> Picture:
        picture = decode(data)
        return dataclasses.replace(picture, renditions=render(picture))

    return decode_and_render


def render(picture: Picture) -> Renditions:
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    # A WebP would be smaller, but cost more than the rest of decoding a small picture.
    thumbnail = _jpeg(_within(image, THUMBNAIL_SIDE / max(image.size)), quality=75)
    if picture.facts.format not in NOT_SHOWN:
        return Renditions(thumbnail, None)
    shown = _within(image, math.sqrt(MOST_PIXELS / (image.width * image.height)))
    # Without halved colours: a reviewer may take smeared colours for an artifact.
    return Renditions(thumbnail, _jpeg(shown, quality=90, subsampling=0))


def _within(image: Image.Image, scale: float) -> Image.Image:
    """The image made smaller, never larger."""
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _jpeg(image: Image.Image, *, quality: int, subsampling: int = 2) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()
