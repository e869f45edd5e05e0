"""Files of kinds or colours that browsers do not show and people flag all the same: TIFF in all its colours, HEIC."""

import io
from collections.abc import Iterator

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from tests.files.turned import stored


def files() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each way. All hold the gradient of `turned`, in colour or grey."""
    rgb, grey = stored(), stored().convert("L")
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    clear = rgb.copy()
    clear.putalpha(grey)
    for name, image in {
        "colour": rgb, "grey": grey, "two tones": grey.convert("1"), "palette": rgb.quantize(64), "alpha": clear,
        "grey and alpha": clear.convert("LA"), "cmyk": rgb.convert("CMYK"), "lab": as_lab(rgb),
        "ycbcr": rgb.convert("YCbCr"), "sixteen bits of grey": deep,
        "thirty-two bits that hold sixteen": deep.convert("I"),
    }.items():  # fmt: skip
        for packing in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            if image.mode == "YCbCr" and packing is not None:
                continue
            yield f"tiff, {name}, {packing or 'not packed'}", tiff(image, packing)
    yield "tiff, colour, jpeg", tiff(rgb, "jpeg")
    yield "tiff, two tones, group4", tiff(grey.convert("1"), "group4")
    yield "heic, colour", heic(rgb)
    yield "heic, alpha", heic(clear)
    yield "heic, ten bits", heic_of_ten_bits(grey)


def as_lab(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(image, transform)
    assert lab is not None
    return lab


def tiff(image: Image.Image, packing: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=packing)
    return buffer.getvalue()


def heic(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95)
    return buffer.getvalue()


def heic_of_ten_bits(grey: Image.Image) -> bytes:
    buffer = io.BytesIO()
    values = np.array(grey).astype(np.uint16) * 257
    colour = np.stack([values] * 3, axis=2).tobytes()
    pillow_heif.from_bytes("RGB;16", grey.size, colour).save(buffer, quality=95)
    return buffer.getvalue()
