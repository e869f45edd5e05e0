"""From a picture's stored colours to sRGB: its colour profile is applied as browsers apply it.

Stored pixels alone prove nothing: with a profile that swaps red and green, people see another picture. Browsers do not
apply a profile that is broken or of another kind than the pixels, and neither does this module. Light and colours
beyond a screen's range (PQ and HLG) are not converted: each browser fits them in its own way.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

#: Most bytes of a profile: the segments of a JPEG hold no more.
MOST_BYTES = 2**24
#: A profile that moves no colour by more than this, of 255, is sRGB with other rounding, and is not applied.
ROUNDING = 1

_HEADER = 128
#: The white point of ICC profiles.
_D50 = np.array([0.9642, 1.0, 0.8249])
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "P", "PA")
#: Kinds of profile that fit pixels of these modes.
_FITTING = {
    **dict.fromkeys(_GREY_MODES, (b"GRAY", b"RGB ")),
    **dict.fromkeys(_COLOUR_MODES, (b"RGB ",)),
    "CMYK": (b"CMYK",),
}


def in_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The picture in sRGB, as RGB or RGBA. None: its stored colours are the ones people see."""
    space = profile[16:20]
    if space not in _FITTING.get(image.mode, ()) or not _sound(profile):
        return None
    mode = {b"GRAY": "L", b"CMYK": "CMYK"}.get(space, "RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(_of_a_device(profile)))
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
        if mode != "CMYK" and _moves(transform, mode) <= ROUNDING:
            return None
        return _applied(transform, image, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _sound(profile: bytes) -> bool:
    """True when browsers accept the profile's header."""
    if not _HEADER < len(profile) <= MOST_BYTES or profile[36:40] != b"acsp":
        return False
    (size,) = struct.unpack_from(">I", profile)
    white = np.array(struct.unpack_from(">3i", profile, 68)) / 65536
    return size <= len(profile) and bool(np.abs(white - _D50).max() <= 0.01)


def _of_a_device(profile: bytes) -> bytes:
    """The profile with a device class that lcms accepts. Browsers ignore the class."""
    return profile if profile[12:16] in _DEVICES else profile[:12] + b"mntr" + profile[16:]


_DEVICES = (b"mntr", b"prtr", b"scnr", b"spac")


def _applied(transform: Any, image: Image.Image, mode: str) -> Image.Image:
    if mode == "CMYK":
        return _through(transform, image)
    clear = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    layered = _as(image, "RGBA" if clear else "RGB")
    seen = _through(transform, layered.getchannel("R") if mode == "L" else _as(layered, "RGB"))
    if clear:
        seen.putalpha(layered.getchannel("A"))
    return seen


def _as(image: Image.Image, mode: str) -> Image.Image:
    """Convert to `mode`, without a copy when nothing changes: the picture may be as large as memory allows."""
    return image if image.mode == mode else image.convert(mode)


def _through(transform: Any, image: Image.Image) -> Image.Image:
    seen = ImageCms.applyTransform(image, transform)
    assert seen is not None, "it is not made in place"
    return seen


def _moves(transform: Any, mode: str) -> int:
    """The most that a transform moves a colour, in values of 255."""
    probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None]) if mode == "L" else _cube()
    seen = np.array(_through(transform, probe)).astype(int)
    return int(np.abs(seen - np.array(probe.convert("RGB"))).max())


@cache
def _cube() -> Image.Image:
    """A picture of 9 × 9 × 9 colours, one pixel each."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1)
    return Image.fromarray(grid.reshape(27, 27, 3))


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile_of(*PRIMARIES[_SRGB_PRIMARIES], _SRGB_CURVE)))


# --- profiles in files


def of_png(body: bytes) -> bytes | None:
    """The profile in an iCCP chunk. None: it is broken.

    In a PNG, browsers treat every profile that is neither GRAY nor CMYK as an RGB one.
    """
    label, _, packed = body.partition(b"\0")
    if not label or packed[:1] != b"\0":
        return None
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], MOST_BYTES)
    except zlib.error:
        return None
    if not unpacking.eof or not _sound(profile):
        return None
    return profile if profile[16:20] in (b"GRAY", b"CMYK") else profile[:16] + b"RGB " + profile[20:]


def of_parts(parts: Sequence[bytes]) -> bytes | None:
    """The profile in a JPEG's APP2 segments. Each part has its place, the count and data. None: a part is missing."""
    placed: dict[int, bytes] = {}
    counts = set[int]()
    for part in parts:
        if len(part) > 2:
            placed.setdefault(part[0], part[2:])
            counts.add(part[1])
    if len(counts) != 1 or sorted(placed) != list(range(1, counts.pop() + 1)):
        return None
    return b"".join(placed[place] for place in sorted(placed))


# --- profiles by numbers: primaries, white and curve as a format names them

_Point = tuple[float, float]
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
#: Red, green and blue, and white, by number (ITU-T H.273).
PRIMARIES: dict[int, tuple[tuple[_Point, _Point, _Point], _Point]] = {
    1: (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), _D65),
    4: (((0.67, 0.33), (0.21, 0.71), (0.14, 0.08)), _C),
    5: (((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)), _D65),
    6: (((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), _D65),
    7: (((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)), _D65),
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), _D65),
    11: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351)),
    12: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), _D65),
    22: (((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)), _D65),
}
_SRGB_PRIMARIES, _UNSAID = 1, 2


def _power(exponent: float) -> bytes:
    return b"para" + struct.pack(">IHHi", 0, 0, 0, round(exponent * 65536))


def _kinked(*numbers: float) -> bytes:
    """A power above a straight line (ICC.1:2022, 10.18, type 3)."""
    return b"para" + struct.pack(">IHH5i", 0, 3, 0, *(round(number * 65536) for number in numbers))


_SRGB_CURVE = _kinked(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
#: Curves by number (ITU-T H.273). Video gets the curve of its screens (BT.1886). The last four belong to no screen, so
#: sRGB's curve is used.
CURVES = {
    **dict.fromkeys((1, 6, 11, 14, 15), _power(2.4)),
    4: _power(2.2),
    5: _power(2.8),
    8: _power(1.0),
    **dict.fromkeys((13, 7, 16, 17, 18), _SRGB_CURVE),
}
#: Curves that browsers treat as sRGB's in an AVIF: those of video, and unspecified.
_LIKE_SRGB = frozenset((1, 2, 6))


def of_cicp(body: bytes) -> bytes | None:
    """The profile of a PNG's cICP. None: it names none that we apply."""
    # The third number means that the colours are RGB, the fourth that they use the full range.
    return _named(body[0], body[1]) if len(body) == 4 and body[2:] == b"\0\1" else None


def of_nclx(primaries: int, curve: int) -> bytes | None:
    """The profile that an AVIF names. None: it names none that we apply."""
    return _named(
        _SRGB_PRIMARIES if primaries == _UNSAID else primaries, 13 if curve in _LIKE_SRGB else curve
    )


def _named(primaries: int, curve: int) -> bytes | None:
    if primaries not in PRIMARIES or curve not in CURVES:
        return None
    return profile_of(*PRIMARIES[primaries], CURVES[curve])


#: sRGB's gAMA in a PNG, in 100,000ths. Without cHRM, a gAMA within this share of it counts as sRGB.
_USUAL_GAMMA, _ABOUT = 45_455, 0.05
#: Steeper curves make everything black.
_STEEPEST = 1000.0


def of_gamma(gamma: bytes, chroma: bytes) -> bytes | None:
    """The profile of a PNG's gAMA and cHRM (white, red, green, blue). None: it is sRGB, or no such colours exist."""
    value = int.from_bytes(gamma, "big") if len(gamma) == 4 else 0
    points = [number / 100_000 for number in struct.unpack(">8I", chroma)] if len(chroma) == 32 else []
    if not value or (not points and abs(value / _USUAL_GAMMA - 1) <= _ABOUT):
        return None
    colours, white = PRIMARIES[_SRGB_PRIMARIES]
    if points:
        white, *others = zip(points[::2], points[1::2], strict=True)
        colours = others[0], others[1], others[2]
    try:
        return profile_of(colours, white, _power(min(100_000 / value, _STEEPEST)))
    except (np.linalg.LinAlgError, ZeroDivisionError, struct.error, ValueError, OverflowError):
        return None


#: From XYZ to cone responses (Bradford).
_CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def profile_of(colours: tuple[_Point, _Point, _Point], white: _Point, curve: bytes) -> bytes:
    """An ICC profile of version 2 with these primaries and white, as (x, y), and this curve for each."""
    there = _xyz(white)
    columns = np.stack([_xyz(colour) for colour in colours], axis=1)  # (3, 3): one column for each
    columns = columns * np.linalg.solve(columns, there)
    adapt = np.linalg.solve(_CONES, np.diag(_CONES @ _D50 / (_CONES @ there)) @ _CONES)
    red, green, blue = (_tag_xyz(column) for column in (adapt @ columns).T)
    tags = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    return _written({b"wtpt": _tag_xyz(_D50), **tags, b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def _xyz(point: _Point) -> np.ndarray:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _tag_xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _written(tags: dict[bytes, bytes]) -> bytes:
    directory, body = b"", b""
    start = _HEADER + 4 + 12 * len(tags)
    for name, data in tags.items():
        directory += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head += bytes(28) + _tag_xyz(_D50)[8:]
    return head + bytes(_HEADER - len(head)) + struct.pack(">I", len(tags)) + directory + body
