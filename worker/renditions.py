"""Pictures of a picture, made where it was decoded: a small one for lists, and one that a browser can show.

They are made of pixels, not of a file: whatever the file tried, they hold nothing of it but what it looks like.
"""

import dataclasses
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from moderation.database.renditions import NOT_SHOWN, Renditions
from moderation.dfa.gpt.pixels import Picture

#: Longer side of a thumbnail, pixels: a list shows half of it, on screens of twice the pixels.
THUMBNAIL_SIDE = 192
#: Pixels of what browsers are shown. Most cameras' pictures keep their own: artifacts are looked at pixel by pixel.
MOST_PIXELS = 2**24


def with_renditions(decode: Callable[[bytes], Picture]) -> Callable[[bytes], Picture]:
    """The same decoding, of which the pictures carry their renditions."""

    def decode_and_render(data: bytes) -> Picture:
        picture = decode(data)
        return dataclasses.replace(picture, renditions=render(picture))

    return decode_and_render


def render(picture: Picture) -> Renditions:
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    # A WebP would be smaller, and take more of a core than all the rest of a small picture's decoding.
    thumbnail = _jpeg(_within(image, THUMBNAIL_SIDE / max(image.size)), quality=75)
    if picture.facts.format not in NOT_SHOWN:
        return Renditions(thumbnail, None)
    shown = _within(image, math.sqrt(MOST_PIXELS / (image.width * image.height)))
    # Without halved colours: what compression smears, a reviewer may take for an artifact.
    return Renditions(thumbnail, _jpeg(shown, quality=90, subsampling=0))


def _within(image: Image.Image, scale: float) -> Image.Image:
    """Made smaller; never larger."""
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _jpeg(image: Image.Image, *, quality: int, subsampling: int = 2) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()
