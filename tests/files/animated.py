"""Animations, whole and damaged. Of PNG: a red picture for viewers without animation, and frames of other colours.

What people see is the first frame, which need not be the picture that other viewers show.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from tests.files.turned import HEIGHT, WIDTH, chunk, riff

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
    per_second: int = 1000,
) -> bytes:
    body = struct.pack(
        ">IIIIIHHBB", sequence, width, height, left, top, milliseconds, per_second, dispose, blend
    )
    return chunk(b"fcTL", body)


def data(sequence: int, colour: Colour, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", sequence) + pixels(colour, width, height))


def pixels(colour: Colour, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return zlib.compress((b"\0" + bytes(colour) * width) * height)


def wrong(whole: bytes) -> bytes:
    """The same chunk with a checksum that does not hold."""
    return whole[:-4] + bytes(byte ^ 0xFF for byte in whole[-4:])


# --- in time: every kind, with the same few frames


@dataclass(frozen=True)
class Frame:
    colour: Colour
    milliseconds: int
    #: Left, top, width, height.
    place: tuple[int, int, int, int] = (0, 0, WIDTH, HEIGHT)
    #: As GIF counts: 1 stays, 2 is cleared, 3 gives back what was there.
    disposal: int = 1


#: Frames, and how often they are played; 0: for ever.
TIMED: dict[str, tuple[list[Frame], int]] = {
    "a cover that nobody has time to see": ([Frame(RED, 10), Frame(GREEN, 600_000)], 0),
    "one of three stays": ([Frame(RED, 10), Frame(GREEN, 600_000), Frame(BLUE, 10)], 0),
    "the first of several that stay as long": ([Frame(RED, 600_000), Frame(GREEN, 600_000)], 0),
    "it ends and the last stays": ([Frame(RED, 10), Frame(BLUE, 20), Frame(GREEN, 10)], 1),
    "a part over what was there": ([Frame(RED, 10), Frame(GREEN, 600_000, (6, 8, 20, 10))], 0),
    "a part where all was cleared": (
        [Frame(RED, 10, disposal=2), Frame(GREEN, 600_000, (6, 8, 20, 10))], 0,
    ),
    "a part where another part was cleared": (
        [Frame(RED, 10), Frame(BLUE, 10, (2, 2, 30, 30), 2), Frame(GREEN, 600_000, (6, 8, 20, 10))], 0,
    ),
    "a part where what was there came back": (
        [Frame(RED, 10), Frame(BLUE, 10, (2, 2, 30, 30), 3), Frame(GREEN, 600_000, (6, 8, 20, 10))], 0,
    ),
}  # fmt: skip


def timed() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each, of each kind that has it."""
    for name, (frames, plays) in TIMED.items():
        yield f"gif, {name}", gif(frames, plays)
        yield f"apng, {name}", apng(frames, plays)
        if all(frame.disposal < 3 for frame in frames):
            yield f"webp, {name}", webp(frames, plays)
    for name, (frames, plays) in TIMED.items():
        if plays == 0 and all(frame.place == (0, 0, WIDTH, HEIGHT) for frame in frames):
            yield f"avif, {name}", avif(frames)
    yield "apng, sixteen bits of grey", _deep_apng()
    yield "gif, it says nothing of an end", gif([Frame(RED, 10), Frame(GREEN, 10)], None)


def _deep_apng() -> bytes:
    """Grey of 16 bits: black for a moment, then a step from dark to light."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 0, 0, 0, 0))
    dark = zlib.compress((b"\0" + bytes(2 * WIDTH)) * HEIGHT)
    line = b"\0" + struct.pack(">H", 0x3000) * (WIDTH // 2) + struct.pack(">H", 0xC0FF) * (WIDTH // 2)
    parts = [
        says(2),
        control(0, milliseconds=10),
        chunk(b"IDAT", dark),
        control(1),
        chunk(b"fdAT", struct.pack(">I", 2) + zlib.compress(line * HEIGHT)),
    ]
    return b"".join([SIGNATURE, head, *parts, chunk(b"IEND", b"")])


def apng(frames: list[Frame], plays: int) -> bytes:
    parts, sequence = [chunk(b"acTL", struct.pack(">II", len(frames), plays))], 0
    for number, frame in enumerate(frames):
        left, top, width, height = frame.place
        parts.append(
            control(
                sequence, width, height, left, top,
                milliseconds=frame.milliseconds // 10, dispose=frame.disposal - 1, per_second=100,
            )
        )  # fmt: skip
        sequence += 1
        if number == 0:
            parts.append(chunk(b"IDAT", pixels(frame.colour, width, height)))
        else:
            parts.append(data(sequence, frame.colour, width, height))
            sequence += 1
    return b"".join([SIGNATURE, HEADER, *parts, chunk(b"IEND", b"")])


def gif(frames: list[Frame], plays: int | None) -> bytes:
    """Each frame with a palette of its own. `plays` None: the file does not speak of it."""
    parts = [b"GIF89a", struct.pack("<HH", WIDTH, HEIGHT), b"\x00\x00\x00"]
    if plays is not None:
        # It counts how often it is played again; once more is not said.
        again = 0 if plays == 0 else max(plays - 1, 1)
        parts.append(b"\x21\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", again) + b"\0")
    for frame in frames:
        left, top, width, height = frame.place
        buffer = io.BytesIO()
        image = Image.new("P", (width, height), 0)
        image.putpalette([*frame.colour, 0, 0, 0])
        image.save(buffer, "GIF")
        single = buffer.getvalue()
        palette = single[13 : 13 + (3 << (single[10] & 7) + 1)]
        at = single.index(b"\x2c", 13 + len(palette))
        hundredths = min(frame.milliseconds // 10, 0xFFFF)
        parts.append(b"\x21\xf9\x04" + bytes([frame.disposal << 2]) + struct.pack("<H", hundredths) + b"\0\0")
        parts.append(b"\x2c" + struct.pack("<HHHH", left, top, width, height))
        parts.append(bytes([0x80 | single[10] & 7]) + palette + single[at + 10 : -1])
    return b"".join([*parts, b";"])


def webp(frames: list[Frame], plays: int) -> bytes:
    parts = [riff(b"VP8X", struct.pack("<I", 2) + _three(WIDTH - 1) + _three(HEIGHT - 1))]
    parts.append(riff(b"ANIM", b"\xff\0\0\xff" + struct.pack("<H", plays)))
    for frame in frames:
        left, top, width, height = frame.place
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), frame.colour).save(buffer, "WEBP", lossless=True)
        numbers = (left // 2, top // 2, width - 1, height - 1, frame.milliseconds)
        flags = bytes([1 if frame.disposal == 2 else 0])
        parts.append(riff(b"ANMF", b"".join(map(_three, numbers)) + flags + buffer.getvalue()[12:]))
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def avif(frames: list[Frame]) -> bytes:
    first, *others = (Image.new("RGB", (WIDTH, HEIGHT), frame.colour) for frame in frames)
    buffer = io.BytesIO()
    times = [frame.milliseconds for frame in frames]
    first.save(buffer, "AVIF", save_all=True, append_images=others, duration=times, quality=100)
    return buffer.getvalue()


def _three(number: int) -> bytes:
    return struct.pack("<I", number)[:3]
