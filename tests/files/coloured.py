"""Files of every kind that browsers show, in every way of storing colours that their writers offer."""

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from tests.files.turned import HEIGHT, WIDTH, riff, stored


def files() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each way. All hold the same gradient, some of it transparent."""
    rgb, grey = stored(), stored().convert("L")
    clear = rgb.copy()
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
    palette = rgb.quantize(64)
    yield from _made("jpeg", "JPEG", {
        "colour": (rgb, {}), "grey": (grey, {}), "progressive": (rgb, {"progressive": True}),
        "full chroma": (rgb, {"subsampling": 0}), "stored as RGB": (rgb, {"keep_rgb": True}),
        "cmyk": (rgb.convert("CMYK"), {}), "restarts": (rgb, {"restart_marker_blocks": 2}),
    })  # fmt: skip
    yield from _made("png", "PNG", {
        "colour": (rgb, {}), "alpha": (clear, {}), "grey": (grey, {}), "grey and alpha": (clear.convert("LA"), {}),
        "palette": (palette, {}), "palette, one clear": (palette, {"transparency": 3}),
        "palette, all half clear": (palette, {"transparency": bytes([128] * 64)}),
        "one colour is clear": (Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)), {"transparency": (9, 8, 7)}),
        "one grey is clear": (Image.new("L", (WIDTH, HEIGHT), 9), {"transparency": 9}),
        "two tones": (grey.convert("1"), {}), "sixteen bits of grey": (_sixteen(grey), {}),
    })  # fmt: skip
    yield from _made("webp", "WEBP", {
        "colour": (rgb, {}), "lossless": (rgb, {"lossless": True}), "alpha": (clear, {}),
        "alpha, lossless": (clear, {"lossless": True}),
    })  # fmt: skip
    yield from _made("avif", "AVIF", {
        "colour": (rgb, {}), "grey": (grey, {}), "alpha": (clear, {}), "full chroma": (rgb, {"subsampling": "4:4:4"}),
        "full range": (rgb, {"range": "full"}), "limited range": (rgb, {"range": "limited"}),
    })  # fmt: skip
    yield from _made("gif", "GIF", {
        "colour": (palette, {}), "grey": (grey, {}), "one clear": (palette, {"transparency": 3}),
        "interlaced": (palette, {"interlace": 1}),
    })  # fmt: skip
    yield from _made("bmp", "BMP", {
        "colour": (rgb, {}), "grey": (grey, {}), "palette": (palette, {}), "two tones": (grey.convert("1"), {}),
        "alpha": (clear, {}),
    })  # fmt: skip
    yield "gif, first frame smaller than its canvas", placed_gif(WIDTH + 10, HEIGHT + 8, 5, 4)
    yield "gif, first frame at the edge of its canvas", placed_gif(WIDTH + 10, HEIGHT + 8, 10, 8)
    yield (
        "gif, first frame with a clear colour on a larger canvas",
        placed_gif(WIDTH + 10, HEIGHT + 8, 5, 4, transparency=3),
    )
    yield "gif, first frame larger than its canvas", placed_gif(WIDTH - 10, HEIGHT - 8, 0, 0)
    yield "gif, first frame partly beyond its canvas", placed_gif(WIDTH, HEIGHT, 10, 8)
    yield "webp, first frame smaller than its canvas", placed_webp(WIDTH + 10, HEIGHT + 8, 6, 4)


def _made(
    name: str, kind: str, ways: dict[str, tuple[Image.Image, dict[str, Any]]]
) -> Iterator[tuple[str, bytes]]:
    quality = {"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}
    for way, (image, options) in ways.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **{**quality, **options})
        yield f"{name}, {way}", buffer.getvalue()


def _sixteen(grey: Image.Image) -> Image.Image:
    return Image.fromarray(np.array(grey).astype(np.uint16) * 257)


def placed_gif(width: int, height: int, left: int, top: int, **options: Any) -> bytes:
    """A canvas of this size and one frame that lies there on it."""
    buffer = io.BytesIO()
    stored().quantize(64).save(buffer, "GIF", **options)
    data = bytearray(buffer.getvalue())
    data[6:10] = struct.pack("<HH", width, height)
    at = data.index(b"\x2c" + bytes(4) + struct.pack("<HH", WIDTH, HEIGHT))
    data[at + 1 : at + 5] = struct.pack("<HH", left, top)
    return bytes(data)


def placed_webp(width: int, height: int, left: int, top: int) -> bytes:
    """The same of an animation of one frame, whose background is red. `left` and `top` are even."""
    buffer = io.BytesIO()
    stored().save(buffer, "WEBP", quality=95)
    numbers = (left // 2, top // 2, WIDTH - 1, HEIGHT - 1, 60_000)
    frame = b"".join(struct.pack("<I", number)[:3] for number in numbers) + b"\0" + buffer.getvalue()[12:]
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"".join([
        riff(b"VP8X", struct.pack("<I", 2) + size),
        riff(b"ANIM", b"\0\0\xff\xff\0\0"),
        riff(b"ANMF", frame),
        riff(b"ANMF", frame),
    ])  # fmt: skip
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
