"""Pictures as files, for benchmarks."""

import io

from PIL import Image


def encoded(image: Image.Image, kind: str = "JPEG", *, quality: int = 90) -> bytes:
    """The file of a picture. `quality` counts for JPEG and WebP."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind, quality=quality)
    return buffer.getvalue()
