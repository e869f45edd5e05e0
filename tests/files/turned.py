"""Files that say which way up they are: in every place and in every form in which we have seen it said, or could.

Each holds the same picture, stored as it is, and a word about its orientation that a reader follows or does not.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

#: Pixels of the picture as it is stored.
WIDTH, HEIGHT = 64, 48

_JPEG_SOS = b"\xff\xda"
_TAG = 0x0112
_SHORT, _LONG = 3, 4


def stored() -> Image.Image:
    """Red grows to the right, green grows downwards: no two of its eight positions look alike."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([x * 250 // WIDTH, y * 250 // HEIGHT, np.full_like(x, 90)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


#: What each value of the EXIF tag does to the stored picture.
POSITIONS: dict[int, Image.Transpose | None] = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def position(seen: np.ndarray) -> int:
    """Which of the eight this is, (H, W, 3). 0: none of them."""
    for value, turn in POSITIONS.items():
        expected = np.array(stored() if turn is None else stored().transpose(turn)).astype(int)
        if expected.shape == seen.shape and np.abs(expected - seen).mean() < 12:
            return value
    return 0


def files() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each way."""
    for value in range(10):
        yield f"jpeg, exif {value}", jpeg(before=[app1(exif(value))])
        yield f"png, eXIf {value}", png(before=[(b"eXIf", exif(value))])
        yield f"webp, EXIF {value}", webp([(b"EXIF", exif(value))])
    for value in range(2, 9):
        yield f"avif, irot and imir {value}", avif(value)
    yield from _jpegs()
    yield from _pngs()
    yield from _webps()
    yield from _others()


def _jpegs() -> Iterator[tuple[str, bytes]]:
    for name, block in odd_exif():
        yield f"jpeg, {name}", jpeg(before=[app1(block)])
    yield "jpeg, xmp alone", jpeg(before=[segment(0xE1, XMP_NAME + xmp(6))])
    yield "jpeg, xmp as an element", jpeg(before=[segment(0xE1, XMP_NAME + xmp_element(6))])
    yield "jpeg, xmp that is only words", jpeg(before=[segment(0xE1, XMP_NAME + b'tiff:Orientation="6"')])
    yield (
        "jpeg, exif 3 and xmp 6",
        jpeg(before=[app1(exif(3)), segment(0xE1, XMP_NAME + xmp(6))]),
    )
    yield "jpeg, exif 3 then exif 6", jpeg(before=[app1(exif(3)), app1(exif(6))])
    yield "jpeg, exif without a tag then exif 6", jpeg(before=[app1(exif(1, tag=0x010E)), app1(exif(6))])
    yield "jpeg, exif that is noise then exif 6", jpeg(before=[app1(b"noise" * 9), app1(exif(6))])
    yield "jpeg, exif in two segments", jpeg(before=[app1(exif(6)[:20]), app1(exif(6)[20:])])
    yield "jpeg, exif before its scan", jpeg(late=[app1(exif(6))])
    yield "jpeg, exif after its end", jpeg() + app1(exif(6))
    yield "jpeg, exif after its scan", jpeg()[:-2] + app1(exif(6)) + b"\xff\xd9"
    yield "jpeg, exif with another padding", jpeg(before=[segment(0xE1, b"Exif\0\xff" + exif(6))])
    yield "jpeg, exif without padding", jpeg(before=[segment(0xE1, b"Exif\0" + exif(6))])
    yield "jpeg, exif in another case", jpeg(before=[segment(0xE1, b"EXIF\0\0" + exif(6))])
    yield "jpeg, exif in APP2", jpeg(before=[segment(0xE2, b"Exif\0\0" + exif(6))])
    yield "jpeg, exif in a comment", jpeg(before=[segment(0xFE, b"Exif\0\0" + exif(6))])
    yield "jpeg, exif after fill bytes", jpeg(before=[b"\xff\xff\xff" + app1(exif(6))])
    yield "jpeg, exif after bytes that are nothing", jpeg(before=[b"\0\0\0\0", app1(exif(6))])
    yield (
        "jpeg, exif within another segment",
        jpeg(before=[segment(0xED, b"Photoshop 3.0\0" + app1(exif(6)))]),
    )
    yield (
        "jpeg, exif named twice",
        jpeg(before=[segment(0xE1, b"Exif\0\0Exif\0\0" + exif(6))]),
    )
    yield "jpeg, exif of one byte too few", jpeg(before=[app1(exif(6)[:-5])])


def _pngs() -> Iterator[tuple[str, bytes]]:
    for name, block in odd_exif():
        yield f"png, {name}", png(before=[(b"eXIf", block)])
    yield "png, eXIf after the pixels", png(after=[(b"eXIf", exif(6))])
    yield "png, eXIf before and after", png(before=[(b"eXIf", exif(3))], after=[(b"eXIf", exif(6))])
    yield "png, eXIf twice", png(before=[(b"eXIf", exif(3)), (b"eXIf", exif(6))])
    yield (
        "png, eXIf without a tag then eXIf",
        png(before=[(b"eXIf", exif(1, tag=0x010E)), (b"eXIf", exif(6))]),
    )
    yield "png, eXIf with a name before it", png(before=[(b"eXIf", b"Exif\0\0" + exif(6))])
    yield (
        "png, eXIf with a wrong checksum",
        png(before=[(b"eXIf", exif(6))]).replace(
            chunk(b"eXIf", exif(6)), chunk(b"eXIf", exif(6))[:-1] + b"\0"
        ),
    )
    yield "png, zxIf", png(before=[(b"zxIf", zlib.compress(exif(6)))])
    yield "png, xmp alone", png(before=[(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6))])
    yield (
        "png, xmp alone, compressed",
        png(before=[(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6)))]),
    )
    yield "png, xmp as a text", png(before=[(b"tEXt", b"XML:com.adobe.xmp\0" + xmp(6))])
    yield "png, exif as a text", png(before=[(b"tEXt", b"exif\0Exif\0\0" + exif(6))])
    for kind in ("exif", "APP1"):
        profile = _raw_profile(kind, b"Exif\0\0" + exif(6))
        key = f"Raw profile type {kind}".encode()
        yield f"png, raw profile {kind}", png(before=[(b"tEXt", key + b"\0" + profile)])
        yield (
            f"png, raw profile {kind}, compressed",
            png(before=[(b"zTXt", key + b"\0\0" + zlib.compress(profile))]),
        )
        yield f"png, raw profile {kind}, after", png(after=[(b"tEXt", key + b"\0" + profile)])
    yield "png, animated, eXIf", animated("PNG", exif(6))
    yield "png, animated, eXIf after all frames", _with_late_exif(animated("PNG", None))


def _webps() -> Iterator[tuple[str, bytes]]:
    for name, block in odd_exif():
        yield f"webp, {name}", webp([(b"EXIF", block)])
    yield "webp, EXIF with a name before it", webp([(b"EXIF", b"Exif\0\0" + exif(6))])
    yield "webp, EXIF that the header does not announce", webp([(b"EXIF", exif(6))], flags=0)
    yield "webp, EXIF before the pixels", webp([], first=[(b"EXIF", exif(6))])
    yield "webp, EXIF twice", webp([(b"EXIF", exif(3)), (b"EXIF", exif(6))])
    yield "webp, xmp alone", webp([(b"XMP ", xmp(6))], flags=4)
    yield "webp, EXIF, lossless", webp([(b"EXIF", exif(6))], lossless=True)
    yield "webp, EXIF, animated", animated("WEBP", exif(6))


def _others() -> Iterator[tuple[str, bytes]]:
    for name, block in odd_exif():
        yield f"avif, {name}", avif(1, block)
    yield "avif, exif 6 and no irot", avif(1, exif(6))
    yield "avif, xmp alone", encoded("AVIF", xmp=xmp(6))
    yield "gif, xmp alone", gif_with(b"\x21\xff\x0bXMP DataXMP" + _blocks(xmp(6)))
    yield "gif, exif as a comment", gif_with(b"\x21\xfe" + _blocks(b"Exif\0\0" + exif(6)))
    yield "bmp", encoded("BMP")
    yield "bmp from its top down", _upside_down_bmp()


def odd_exif() -> Iterator[tuple[str, bytes]]:
    """Blocks that say 6 in another way than cameras do, or seem to."""
    yield "exif 6 in the other order of bytes", exif(6, order="<")
    for kind, name in (
        (1, "BYTE"), (2, "ASCII"), (4, "LONG"), (6, "SBYTE"), (7, "UNDEFINED"), (8, "SSHORT"), (9, "SLONG"),
        (13, "IFD"), (16, "LONG8"), (0, "no type"), (99, "a type nobody knows"),
    ):  # fmt: skip
        yield f"exif 6 as {name}", exif(6, kind=kind)
        yield f"exif 6 as {name}, in the other order", exif(6, kind=kind, order="<")
    yield "exif 6 as a RATIONAL", exif_outside(5, struct.pack(">II", 6, 1))
    yield "exif 6 as a FLOAT", exif(0, kind=11, raw=struct.pack(">f", 6))
    yield "exif of no value", exif(6, count=0)
    yield "exif of two values", exif(6, count=2, raw=struct.pack(">HH", 6, 3))
    yield "exif of three values", exif_outside(_SHORT, struct.pack(">HHH", 6, 6, 6), count=3)
    yield "exif 6 with a full word", exif(6, raw=struct.pack(">HH", 6, 0xFFFF))
    yield "exif 3 then 6 in one directory", _tiff([_entry(3), _entry(6)])
    yield "exif 9 then 6 in one directory", _tiff([_entry(9), _entry(6)])
    yield "exif 6 after a tag of a higher number", _tiff([_entry(1, tag=0x8298), _entry(6)])
    yield "exif 6 far from its start", exif(6, gap=500)
    yield "exif 6 in the second directory", _tiff([_entry(1, tag=0x010F)], then=[_entry(6)])
    yield "exif 6 in the exif directory", _inner(0x8769)
    yield "exif 6 in a sub-directory", _inner(0x014A)
    yield "exif 6 with the magic of a BigTIFF", exif(6).replace(b"MM\0*", b"MM\0+")
    yield "exif 6 with another magic", exif(6).replace(b"MM\0*", b"MM\0\x55")
    yield "exif 6 with mixed letters", exif(6).replace(b"MM\0*", b"MI\0*")
    yield "exif 6 cut within its directory", exif(6)[:21]
    yield "exif 6 without a next directory", exif(6)[:-4]
    yield "exif that says it has more entries", exif(6).replace(b"\0\1\1\x12", b"\0\x09\1\x12")
    yield "exif of nothing", b""
    yield "exif that begins where it ends", b"MM\0*\0\0\xff\0"
    yield "exif 6 at an odd place", exif(6, gap=1)


# --- EXIF: a TIFF of one directory (TIFF 6.0, section 2)


def exif(
    value: int,
    *,
    order: str = ">",
    kind: int = _SHORT,
    count: int = 1,
    tag: int = _TAG,
    raw: bytes | None = None,
    gap: int = 0,
) -> bytes:
    """A block whose one tag has this value."""
    return _tiff([_entry(value, order=order, kind=kind, count=count, tag=tag, raw=raw)], order=order, gap=gap)


def exif_outside(kind: int, data: bytes, *, count: int = 1) -> bytes:
    """A block whose value does not fit into its entry: it lies after the directory."""
    entry = struct.pack(">HHII", _TAG, kind, count, 8 + 2 + 12 + 4)
    return _tiff([entry]) + data


def _entry(
    value: int,
    *,
    order: str = ">",
    kind: int = _SHORT,
    count: int = 1,
    tag: int = _TAG,
    raw: bytes | None = None,
) -> bytes:
    if raw is None:
        letter = {1: "B", 2: "B", 6: "b", 7: "B", 4: "I", 9: "i", 13: "I"}.get(kind, "H")
        raw = struct.pack(order + letter, value)
    return struct.pack(order + "HHI", tag, kind, count) + raw.ljust(4, b"\0")


def _tiff(entries: list[bytes], *, then: list[bytes] | None = None, order: str = ">", gap: int = 0) -> bytes:
    head = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8 + gap) + bytes(gap)
    first = struct.pack(order + "H", len(entries)) + b"".join(entries)
    if then is None:
        return head + first + bytes(4)
    following = struct.pack(order + "H", len(then)) + b"".join(then) + bytes(4)
    return head + first + struct.pack(order + "I", len(head + first) + 4) + following


def _inner(pointer: int) -> bytes:
    outer = _tiff([struct.pack(">HHII", pointer, _LONG, 1, 26)])
    return outer + struct.pack(">H", 1) + _entry(6) + bytes(4)


XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"


def xmp(value: int) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
        b"</rdf:RDF></x:xmpmeta>" % value
    )


def xmp_element(value: int) -> bytes:
    attribute = b' tiff:Orientation="%d"/>' % value
    element = b"><tiff:Orientation>%d</tiff:Orientation></rdf:Description>" % value
    return xmp(value).replace(attribute, element)


# --- containers


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    stored().save(buffer, kind, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}), **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def app1(block: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + block)


def jpeg(*, before: list[bytes] | None = None, late: list[bytes] | None = None) -> bytes:
    """With segments after its beginning, or right before its scan."""
    data = encoded("JPEG")
    scan = data.index(_JPEG_SOS)
    return data[:2] + b"".join(before or []) + data[2:scan] + b"".join(late or []) + data[scan:]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    *, before: list[tuple[bytes, bytes]] | None = None, after: list[tuple[bytes, bytes]] | None = None
) -> bytes:
    """With chunks before its pixels, or after them."""
    data = encoded("PNG")
    start, end = data.index(b"IDAT") - 4, len(data) - 12
    early = b"".join(chunk(name, body) for name, body in before or [])
    late = b"".join(chunk(name, body) for name, body in after or [])
    return data[:start] + early + data[start:end] + late + data[end:]


def _raw_profile(kind: str, data: bytes) -> bytes:
    """As ImageMagick writes it."""
    return f"\n{kind}\n{len(data):8}\n{data.hex()}\n".encode()


def _with_late_exif(data: bytes) -> bytes:
    return data[:-12] + chunk(b"eXIf", exif(6)) + data[-12:]


def riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def webp(
    chunks: list[tuple[bytes, bytes]],
    *,
    first: list[tuple[bytes, bytes]] | None = None,
    flags: int = 8,
    lossless: bool = False,
) -> bytes:
    """With chunks after its pixels, or before them. Flag 8 announces EXIF, 4 XMP."""
    pixels = encoded("WEBP", lossless=lossless)[12:]
    size = struct.pack("<I", WIDTH - 1)[:3] + struct.pack("<I", HEIGHT - 1)[:3]
    body = riff(b"VP8X", struct.pack("<I", flags) + size)
    body += b"".join(riff(name, content) for name, content in first or [])
    body += pixels + b"".join(riff(name, content) for name, content in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def avif(value: int, block: bytes | None = None) -> bytes:
    """Pillow writes an orientation as `irot` and `imir`; a block that it cannot read is kept as it is."""
    if block is None:
        tags = Image.Exif()
        tags[_TAG] = value
        return encoded("AVIF", exif=tags)
    # A block of the same length is put in the place of one that says nothing.
    quiet = exif(1, tag=0x010E).ljust(max(len(block), 26), b"\0")
    data = encoded("AVIF", exif=quiet)
    assert data.count(quiet) == 1
    return data.replace(quiet, block.ljust(len(quiet), b"\0"))


def animated(kind: str, block: bytes | None) -> bytes:
    """Two frames, of which the first is long."""
    tags = {} if block is None else {"exif": block}
    return encoded(
        kind, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], duration=600_000, **tags
    )


def gif_with(extension: bytes) -> bytes:
    data = encoded("GIF")
    at = data.index(b"\x2c", 13 + 3 * 256)
    return data[:at] + extension + data[at:]


def _blocks(data: bytes) -> bytes:
    parts = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def _upside_down_bmp() -> bytes:
    """Lines from the top down, as a negative height says: it looks upright."""
    data = bytearray(encoded("BMP"))
    start, line = 54, WIDTH * 3
    lines = [data[start + at : start + at + line] for at in range(0, line * HEIGHT, line)]
    data[22:26] = struct.pack("<i", -HEIGHT)
    data[start : start + line * HEIGHT] = b"".join(reversed(lines))
    return bytes(data)
