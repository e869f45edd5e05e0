"""PNG animations, whole and damaged: a red picture for viewers without animation, and frames of other colours.

What people see is the first frame, which need not be the picture that other viewers show.
"""

import struct
import zlib
from collections.abc import Iterator

from tests.files.turned import HEIGHT, WIDTH, chunk

SIGNATURE = b"\x89PNG\r\n\x1a\n"
RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (40, 60, 210)
Colour = tuple[int, int, int]


def files() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each way."""
    for name, parts in _ways().items():
        yield f"apng, {name}", b"".join([SIGNATURE, HEADER, *parts, chunk(b"IEND", b"")])


def header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


HEADER = header(WIDTH, HEIGHT)


def _ways() -> dict[str, list[bytes]]:
    cover = chunk(b"IDAT", pixels(RED))
    one = [control(0), data(1, GREEN)]
    two = [*one, control(2), data(3, BLUE)]
    halves = pixels(GREEN)[:20], pixels(GREEN)[20:]
    small = chunk(b"IDAT", pixels(RED, 10, 8))
    return {
        "hidden cover, one frame": [says(1), cover, *one],
        "hidden cover, two frames": [says(2), cover, *two],
        "hidden cover, a text between": [says(2), cover, chunk(b"tEXt", b"a\0b"), *two],
        "hidden cover that is cut": [says(2), chunk(b"IDAT", pixels(RED)[:20]), *two],
        "cover is the first frame": [says(2), control(0), cover, control(1), data(2, GREEN)],
        "control before the count": [control(0), says(2), cover, control(1), data(2, GREEN)],
        "count after the pixels": [cover, says(1), *one],
        "count of 0": [says(0), cover, *one],
        "count beyond all numbers": [says(0x90000000), cover, *one],
        "count of 5 for one": [says(5), cover, *one],
        "count of 1 for two": [says(1), cover, *two],
        "count twice": [says(1), says(1), cover, *one],
        "count with a wrong checksum": [wrong(says(2)), cover, *two],
        "count too short": [chunk(b"acTL", struct.pack(">I", 2)), cover, *two],
        "count too long": [chunk(b"acTL", struct.pack(">III", 2, 0, 0)), cover, *two],
        "control with a wrong checksum": [says(2), cover, wrong(control(0)), *two[1:]],
        "control of a sequence from 1": [says(1), cover, control(1), data(2, GREEN)],
        "control beyond the canvas": [says(2), cover, control(0, left=10), *two[1:]],
        "control of no width": [says(2), cover, control(0, 0, 0), *two[1:]],
        "control of an unknown disposal": [says(2), cover, control(0, dispose=9), *two[1:]],
        "control of an unknown blending": [says(2), cover, control(0, blend=9), *two[1:]],
        "control that disposes and blends": [says(2), cover, control(0, dispose=2, blend=1), *two[1:]],
        "control too long": [says(2), cover, chunk(b"fcTL", control(0)[8:-4] + b"xx"), *two[1:]],
        "control twice before the cover": [says(2), control(0), control(1), cover, control(2), data(3, GREEN)],
        "control twice before a frame": [says(2), cover, control(0), control(1), data(2, GREEN)],
        "control and no frame": [says(1), cover, control(0)],
        "frame without control": [says(1), cover, data(0, GREEN)],
        "count and no frames": [says(2), cover],
        "frame with a wrong checksum": [says(2), cover, control(0), wrong(data(1, GREEN)), *two[2:]],
        "frame out of sequence": [says(1), cover, control(0), data(7, GREEN)],
        "frame in two parts": [
            says(2), cover, control(0),
            *(chunk(b"fdAT", struct.pack(">I", at) + half) for at, half in enumerate(halves, start=1)),
            control(3), data(4, BLUE),
        ],
        "frame that is cut": [
            says(2), cover, control(0), chunk(b"fdAT", struct.pack(">I", 1) + halves[0]), *two[2:],
        ],
        "frame of nothing": [says(2), cover, control(0), chunk(b"fdAT", struct.pack(">I", 1)), *two[2:]],
        "frame smaller than the canvas": [
            says(2), cover, control(0, 10, 8, 5, 6), data(1, GREEN, 10, 8), *two[2:],
        ],
        "cover is a frame and smaller": [says(2), control(0, 10, 8), small, control(1), data(2, GREEN)],
        "cover is a frame that says it is smaller": [
            says(2), control(0, 10, 8), cover, control(1), data(2, GREEN),
        ],
        "frames and no cover": [says(1), *one],
        "frames before the cover": [says(2), *one, cover, *two[2:]],
    }  # fmt: skip


def says(frames: int) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


def control(
    sequence: int,
    width: int = WIDTH,
    height: int = HEIGHT,
    left: int = 0,
    top: int = 0,
    *,
    milliseconds: int = 60_000,
    dispose: int = 0,
    blend: int = 0,
) -> bytes:
    body = struct.pack(">IIIIIHHBB", sequence, width, height, left, top, milliseconds, 1000, dispose, blend)
    return chunk(b"fcTL", body)


def data(sequence: int, colour: Colour, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", sequence) + pixels(colour, width, height))


def pixels(colour: Colour, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return zlib.compress((b"\0" + bytes(colour) * width) * height)


def wrong(whole: bytes) -> bytes:
    """The same chunk with a checksum that does not hold."""
    return whole[:-4] + bytes(byte ^ 0xFF for byte in whole[-4:])
