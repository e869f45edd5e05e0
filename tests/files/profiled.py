"""Files that say what their colours mean: by a profile in every place for one, or by a word of their format.

Each holds the same gradient. The profiles are made here, so that each is of a known kind and none is anybody's.
"""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tests.files.turned import HEIGHT, WIDTH, encoded, jpeg, png, segment, stored, webp

#: Red, green and blue as parts of the white of D50 (ICC.1:2022, annex E): of Display P3 and of Adobe RGB.
P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
#: What is stored as red is green, and so on: the stored pixels look like nothing that people see.
SWAPPED = (SRGB[1], SRGB[2], SRGB[0])

_WHITE = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _gamma(value: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(value * 256))


def _of_srgb() -> bytes:
    """The parametric curve of sRGB."""
    numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + struct.pack(">IHH", 0, 3, 0) + b"".join(map(_fixed, numbers))


def _sampled(values: Sequence[int]) -> bytes:
    return b"curv" + struct.pack(f">II{len(values)}H", 0, len(values), *values)


def _words(text: str) -> bytes:
    said = text.encode() + b"\0"
    return b"desc" + struct.pack(">II", 0, len(said)) + said + bytes(4 + 4 + 2 + 1 + 67)


def profile(space: bytes, tags: dict[bytes, bytes], *, kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2 (ICC.1:2001-04)."""
    tags = {b"desc": _words("made by a test"), b"wtpt": _xyz(_WHITE), b"cprt": b"text\0\0\0\0none\0", **tags}
    directory, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        directory += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + b"".join(map(_fixed, _WHITE))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + directory + body


def matrix(colours: Sequence[Sequence[float]], curve: bytes) -> bytes:
    names = (b"r", b"g", b"b")
    tags = {name + b"XYZ": _xyz(colour) for name, colour in zip(names, colours, strict=True)}
    return profile(b"RGB ", tags | {name + b"TRC": curve for name in names})


def grey(curve: bytes) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve})


def table(channels: int, space: bytes, corners: np.ndarray) -> bytes:
    """By a table of two points for each colour and straight curves, to Lab."""
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0" + struct.pack(">BBBx", channels, 3, 2)
    lut += b"".join(map(_fixed, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut += straight * channels + corners.astype(np.uint8).tobytes() + straight * 3
    return profile(space, {b"A2B0": lut}, kind=b"prtr" if channels == 4 else b"mntr", pcs=b"Lab ")


def _corners(of: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """Bytes of Lab for each mixture of some colours, the last one first, from what each adds to light, a and b."""
    mixtures = [(0.0, 0.0, 0.0)]
    for colour in of:
        mixtures = [
            tuple(part + share * more for part, more in zip(mixture, colour, strict=True))
            for mixture in mixtures
            for share in (0, 1)
        ]  # pyright: ignore[reportAssignmentType]
    return np.array(mixtures)


def _inks() -> np.ndarray:
    added = _corners([(-50, -40, -40), (-70, 50, -20), (-30, 0, 70), (-100, 0, 0)])
    return np.clip(np.add(added, (255, 128, 128)), 0, 255)


def _lights() -> np.ndarray:
    added = _corners([(85, 60, 40), (85, -70, 40), (85, 10, -80)])
    return np.clip(np.add(added, (0, 128, 128)), 0, 255)


PROFILES = {
    "Display P3": matrix(P3, _of_srgb()),
    "Adobe RGB": matrix(ADOBE, _gamma(2.2)),
    "colours that are exchanged": matrix(SWAPPED, _of_srgb()),
    "sRGB": matrix(SRGB, _of_srgb()),
    "sRGB with another curve": matrix(SRGB, _gamma(2.2)),
    "a straight curve": matrix(SRGB, _gamma(1.0)),
    "a negative": matrix(SRGB, _sampled([65535, 0])),
    "a table": table(3, b"RGB ", _lights()),
    "grey": grey(_gamma(1.0)),
    "inks": table(4, b"CMYK", _inks()),
    "more bytes than it has": matrix(SWAPPED, _of_srgb()) + bytes(50),
}
_SWAPPED = PROFILES["colours that are exchanged"]
#: Those that are none, or not whole. Of an AVIF with one Chromium shows nothing.
BROKEN = {
    "half a profile": _SWAPPED[:300],
    "noise": b"noise" * 100,
    "a profile without colours": profile(b"RGB ", {}),
    "a profile that says it is longer": struct.pack(">I", len(_SWAPPED) + 1) + _SWAPPED[4:],
    "a profile of another white": _SWAPPED[:68] + struct.pack(">3i", 1, 2, 3) + _SWAPPED[80:],
}
#: PNG's readers take it for red, green and blue, and no others do.
_UNKNOWN = _SWAPPED.replace(b"RGB XYZ ", b"XXXXXYZ ")
PROFILES["for what nobody knows"] = _SWAPPED[:12] + b"xxxx" + _SWAPPED[16:]


def files() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each way."""
    unknown = {"a profile of a kind that nobody knows": _UNKNOWN}
    for name, made in (PROFILES | BROKEN | unknown).items():
        yield f"jpeg, {name}", _saved(stored(), "JPEG", made)
        yield f"jpeg of grey, {name}", _saved(stored().convert("L"), "JPEG", made)
        yield f"jpeg of inks, {name}", _saved(stored().convert("CMYK"), "JPEG", made)
        yield f"png, {name}", png(before=[_iccp(made)])
        yield f"webp, {name}", _saved(stored(), "WEBP", made)
        yield f"animated webp, {name}", _saved(stored(), "WEBP", made, **_MOVING)
        yield f"gif, {name}", _saved(stored().quantize(64), "GIF", made)
    for name, made in PROFILES.items():
        if name not in ("grey", "inks"):
            yield f"avif, {name}", _saved(stored(), "AVIF", made)
    yield "avif of grey, grey", _saved(stored().convert("L"), "AVIF", PROFILES["grey"])
    yield from _pngs()
    yield from _jpegs()
    yield from _webps()
    yield from _avifs()


_MOVING = {
    "save_all": True,
    "append_images": [stored().transpose(Image.Transpose.ROTATE_180)],
    "duration": 60_000,
}


def _saved(image: Image.Image, kind: str, made: bytes, **options: Any) -> bytes:
    buffer = io.BytesIO()
    quality = {"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}
    image.save(buffer, kind, icc_profile=made, **quality, **options)
    return buffer.getvalue()


def _iccp(made: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"name\0\0" + zlib.compress(made)


def _gama(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def _chrm(*values: int) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *values)


_USUAL = _chrm(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_EXCHANGED = _chrm(31270, 32900, 30000, 60000, 15000, 6000, 64000, 33000)


def _pngs() -> Iterator[tuple[str, bytes]]:
    clear = stored().copy()
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
    deep = Image.fromarray(np.array(stored().convert("L")).astype(np.uint16) * 257)
    for name in ("colours that are exchanged", "a straight curve", "grey"):
        made = PROFILES[name]
        yield f"png with alpha, {name}", _saved(clear, "PNG", made)
        yield f"png of grey, {name}", _saved(stored().convert("L"), "PNG", made)
        yield f"png of grey with alpha, {name}", _saved(clear.convert("LA"), "PNG", made)
        yield f"png of a palette, {name}", _saved(stored().quantize(64), "PNG", made)
        yield f"png of a palette of grey, {name}", _saved(stored().convert("L").quantize(64), "PNG", made)
        yield f"png of two tones, {name}", _saved(stored().convert("1"), "PNG", made)
        yield f"png of sixteen bits of grey, {name}", _saved(deep, "PNG", made)
        yield f"animated png, {name}", _saved(stored(), "PNG", made, **_MOVING)
    for value in (1, 20_000, 43_000, 44_000, 45_455, 47_000, 48_000, 100_000, 2**32 - 1):
        yield f"png, gAMA {value}", png(before=[_gama(value)])
        yield f"png, gAMA {value} and cHRM", png(before=[_gama(value), _USUAL])
    yield "png, gAMA of nothing", png(before=[_gama(0)])
    yield "png, gAMA and colours that are exchanged", png(before=[_gama(45_455), _EXCHANGED])
    yield "png, colours that are exchanged and no gAMA", png(before=[_EXCHANGED])
    yield "png, gAMA and colours of nothing", png(before=[_gama(100_000), _chrm(*[0] * 8)])
    yield "png, gAMA after the pixels", png(after=[_gama(100_000)])
    yield "png, gAMA twice", png(before=[_gama(100_000), _gama(20_000)])
    for said in (b"\0", b"\x09", b"", b"\0\0"):
        yield f"png, sRGB of {said!r} and gAMA", png(before=[(b"sRGB", said), _gama(100_000)])
    yield "png, sRGB and iCCP", png(before=[(b"sRGB", b"\0"), _iccp(_SWAPPED)])
    yield "png, iCCP and gAMA", png(before=[_iccp(_SWAPPED), _gama(100_000)])
    yield "png, iCCP of grey and gAMA", png(before=[_iccp(PROFILES["grey"]), _gama(100_000)])
    yield "png, iCCP of noise and gAMA", png(before=[_iccp(b"noise" * 50), _gama(100_000)])
    yield "png, iCCP after the pixels", png(after=[_iccp(_SWAPPED)])
    yield "png, iCCP twice", png(before=[_iccp(PROFILES["a straight curve"]), _iccp(_SWAPPED)])
    yield "png, iCCP twice, the first broken", png(before=[(b"iCCP", b"n\0\0noise"), _iccp(_SWAPPED)])
    packed = zlib.compress(_SWAPPED)
    for name, body in {
        "no name": b"\0\0" + packed, "a long name": b"n" * 80 + b"\0\0" + packed, "another method": b"n\0\1" + packed,
        "bytes after it": b"n\0\0" + packed + b"more", "a wrong sum": b"n\0\0" + packed[:-1] + b"x",
        "no sum": b"n\0\0" + packed[:-4],
    }.items():  # fmt: skip
        yield f"png, iCCP with {name}", png(before=[(b"iCCP", body)])
    for primaries, curve in [
        (1, 13),
        (5, 13),
        (6, 13),
        (9, 13),
        (12, 13),
        (1, 1),
        (1, 4),
        (1, 5),
        (1, 8),
        (12, 8),
    ]:
        yield f"png, cICP {primaries} {curve}", png(before=[(b"cICP", bytes([primaries, curve, 0, 1]))])
    yield (
        "png, cICP that says nothing, and iCCP",
        png(before=[(b"cICP", bytes([2, 2, 0, 1])), _iccp(_SWAPPED)]),
    )
    yield "png, cICP and iCCP", png(before=[(b"cICP", bytes([12, 13, 0, 1])), _iccp(_SWAPPED)])


def _jpegs() -> Iterator[tuple[str, bytes]]:
    half, rest, other = _SWAPPED[:200], _SWAPPED[200:], PROFILES["a straight curve"]
    for name, parts in {
        "two parts": (b"\1\2" + half, b"\2\2" + rest), "two parts in disorder": (b"\2\2" + rest, b"\1\2" + half),
        "a part missing": (b"\1\2" + _SWAPPED,), "counts that differ": (b"\1\2" + half, b"\2\3" + rest),
        "two profiles": (b"\1\1" + other, b"\1\1" + _SWAPPED), "part 0 of 1": (b"\0\1" + _SWAPPED,),
        "part 2 of 1": (b"\2\1" + _SWAPPED,), "a part too short and a whole one": (b"\1", b"\1\1" + _SWAPPED),
        "an empty part": (b"\1\2" + _SWAPPED, b"\2\2"),
    }.items():  # fmt: skip
        yield f"jpeg, a profile of {name}", jpeg(before=[_app2(part) for part in parts])
    yield "jpeg, a profile before the scan", jpeg(late=[_app2(b"\1\1" + _SWAPPED)])
    yield "jpeg, a profile after the scan", jpeg()[:-2] + _app2(b"\1\1" + _SWAPPED) + b"\xff\xd9"
    yield "jpeg, a profile in another segment", jpeg(before=[segment(0xE1, _ICC + b"\1\1" + _SWAPPED)])
    yield "jpeg, stored as RGB", _saved(stored(), "JPEG", _SWAPPED, keep_rgb=True)
    yield "jpeg, several views", _saved(stored(), "MPO", _SWAPPED, **_MOVING)


_ICC = b"ICC_PROFILE\0"


def _app2(part: bytes) -> bytes:
    return segment(0xE2, _ICC + part)


def _webps() -> Iterator[tuple[str, bytes]]:
    other = PROFILES["a straight curve"]
    yield "webp, ICCP that the header does not announce", webp([], first=[(b"ICCP", _SWAPPED)], flags=0)
    yield "webp, ICCP after the pixels", webp([(b"ICCP", _SWAPPED)], flags=0x20)
    yield "webp, ICCP twice", webp([], first=[(b"ICCP", other), (b"ICCP", _SWAPPED)], flags=0x20)


def _avifs() -> Iterator[tuple[str, bytes]]:
    plain, profiled = encoded("AVIF"), _saved(stored(), "AVIF", _SWAPPED)
    for primaries, curve in [
        (1, 13),
        (5, 13),
        (9, 13),
        (12, 13),
        (1, 1),
        (1, 4),
        (1, 8),
        (2, 2),
        (12, 6),
        (12, 8),
    ]:
        yield f"avif, nclx {primaries} {curve}", _with_nclx(plain, primaries, curve)
    yield "avif, a profile and nclx", _with_nclx(profiled, 12, 8)


def _with_nclx(data: bytes, primaries: int, curve: int) -> bytes:
    at = data.index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, curve) + data[at + 4 :]
