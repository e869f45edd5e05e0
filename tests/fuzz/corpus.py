"""What the campaign starts from: small files of every kind that we decode, files known to be bad, and mutations."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import pillow_heif
from PIL import Image

#: HEIC is decoded where an installation asks for it.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "HEIC")


def seeds(kind: str) -> list[bytes]:
    """Small pictures of one kind, one for each way through its decoder that Pillow can write."""
    grain = Image.effect_noise((48, 40), 70)
    rgb = Image.merge("RGB", (grain, grain.rotate(90).resize(grain.size), grain.rotate(180)))
    animated: dict[str, object] = {
        "save_all": True,
        "append_images": [rgb.rotate(angle) for angle in (10, 20, 30)],
    }
    alpha = rgb.convert("RGBA")
    alpha.putalpha(grain)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    made: dict[str, list[tuple[Image.Image, dict[str, object]]]] = {
        "JPEG": [
            (rgb, {"exif": exif}),
            (rgb, {"progressive": True}),
            (rgb.convert("CMYK"), {}),
            (grain, {"subsampling": 0}),
            (rgb, {"icc_profile": b"\0" * 400, "restart_marker_blocks": 2}),
        ],
        "PNG": [
            (rgb, {"exif": exif}),
            (alpha, {}),
            (rgb.convert("P"), {"transparency": 3}),
            (grain.convert("I;16"), {}),
            (grain.convert("1"), {}),
            (rgb, animated),
            (rgb, {"icc_profile": b"\0" * 400}),
        ],
        "WEBP": [
            (rgb, {"exif": exif}),
            (alpha, {"lossless": True}),
            (rgb, animated),
            (alpha, {"quality": 30}),
        ],
        "AVIF": [(rgb, {}), (alpha, {"speed": 10}), (rgb, animated)],
        "GIF": [(rgb, {}), (rgb, animated), (grain.convert("P"), {"transparency": 0, "interlace": 1})],
        "TIFF": [
            (rgb, {}),
            (rgb, {"compression": "tiff_lzw"}),
            (rgb, {"compression": "tiff_adobe_deflate"}),
            (rgb, {"compression": "jpeg"}),
            (grain.convert("1"), {"compression": "group4"}),
            (rgb.convert("CMYK"), {"compression": "packbits"}),
            (grain.convert("I;16"), {}),
            (rgb, animated),
        ],
        "BMP": [(rgb, {}), (rgb.convert("P"), {}), (grain.convert("1"), {}), (alpha, {})],
        "HEIC": [(rgb, {}), (alpha, {"quality": 30}), (grain, {"exif": exif.tobytes()})],
    }
    return [_encoded(image, kind, options) for image, options in made[kind]]


def _encoded(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    if kind == "HEIC":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, kind, **options)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


# --- mutations

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """One to six changes, most of them near the start, where the headers are. A PNG's checksums mostly hold again."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 7)):
        _change(changed, others, chance)
    whole = bytes(changed)
    return _with_checksums(whole) if whole.startswith(b"\x89PNG") and chance.random() < 0.8 else whole


def _change(data: bytearray, others: list[bytes], chance: random.Random) -> None:
    if len(data) < 8:
        data += b"\0" * 8
    reach = len(data) if chance.random() < 0.5 else min(len(data), 160)
    at = chance.randrange(reach)
    match chance.randrange(9):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            data[at] = chance.randrange(256)
        case 2:
            value = chance.choice(_EXTREMES)
            order = chance.choice((">", "<"))
            size, letter = chance.choice(((1, "B"), (2, "H"), (4, "I")))
            data[at : at + size] = struct.pack(order + letter, value & (256**size - 1))
        case 3:
            del data[at : at + chance.randrange(1, 64)]
        case 4:
            piece = data[at : at + chance.randrange(1, 64)]
            data[at:at] = piece * chance.randrange(1, 20)
        case 5:
            data[at:at] = chance.randbytes(chance.randrange(1, 40))
        case 6:
            del data[max(8, chance.randrange(len(data))) :]
        case 7:
            other = chance.choice(others)
            start = chance.randrange(len(other))
            data[at : at + 64] = other[start : start + 64]
        case _:
            data += chance.choice(others)


def _with_checksums(data: bytes) -> bytes:
    """The same chunks with the checksums that their contents ask for, as far as the lengths make sense."""
    fixed, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        body = data[at + 4 : end]
        fixed += data[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at = end + 4
    return bytes(fixed) + data[at:]


# --- files known to be bad


def known_bad() -> Iterator[tuple[str, bytes]]:
    """Bombs, polyglots, loops and lies, each made here byte by byte or by Pillow."""
    png, jpeg, gif, tiff = seeds("PNG")[0], seeds("JPEG")[0], seeds("GIF")[1], seeds("TIFF")[0]
    yield "png bomb, 12,000²", _png(12_000, 12_000, zlib.compress(bytes(12_001 * 12_000), 1))
    yield "png bomb, 6,900² within the limits", _png(6900, 6900, zlib.compress(bytes(6901 * 6900), 1))
    yield "png of 2³¹ pixels a side", _png(2**31 - 1, 2**31 - 1, b"")
    yield "png without pixels", _png(64, 64, b"")
    yield "png whose pixels inflate for ever", _png(64, 64, zlib.compress(bytes(200 * 2**20), 1))
    yield "png with 1 MB of exif", _with_chunk(png, b"eXIf", b"MM\0*" + bytes(2**20))
    yield "png with a text bomb", _with_chunk(png, b"zTXt", b"k\0\0" + zlib.compress(bytes(100 * 2**20), 1))
    yield "png with an icc bomb", _with_chunk(png, b"iCCP", b"n\0\0" + zlib.compress(bytes(100 * 2**20), 1))
    yield "png of 100,000 empty chunks", png[:33] + _chunk(b"tEXt", b"a\0b") * 100_000 + png[33:]
    yield "jpeg of 65,535²", _jpeg_sized(jpeg, 65_535, 65_535)
    yield "jpeg of 99 scans", jpeg[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 90 + b"\xff\xd9"
    yield "jpeg of 10,000 scans", jpeg[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 10_000
    yield (
        "jpeg with 500 segments of exif",
        jpeg[:2] + (b"\xff\xe1\xff\xff" + b"Exif\0\0" + bytes(65_527)) * 480 + jpeg[2:],
    )
    yield (
        "jpeg with exif that points to itself",
        jpeg[:2] + _segment(b"Exif\0\0" + _looping_tiff()) + jpeg[2:],
    )
    yield (
        "jpeg with a malformed icc profile",
        jpeg[:2] + _segment(b"ICC_PROFILE\0\xff\0" + b"\xff" * 500, 0xE2) + jpeg[2:],
    )
    yield "jpeg cut in its header", jpeg[:30]
    yield "jpeg and zip in one", jpeg + b"PK\x03\x04" + bytes(500)
    yield "gif and page in one", gif + b"<script>alert(1)</script>"
    yield "pdf that holds a jpeg", b"%PDF-1.7\n" + jpeg
    yield "gif of 65,535² and 500 frames", b"GIF89a\xff\xff\xff\xff\x00\x00\x00" + _gif_frame() * 500 + b";"
    yield "gif of 30,000 frames", b"GIF89a\x40\x00\x40\x00\x00\x00\x00" + _gif_frame() * 30_000 + b";"
    yield (
        "gif with an endless code stream",
        b"GIF89a\x40\x00\x40\x00\x00\x00\x00,\0\0\0\0\x40\0\x40\0\0\x02" + b"\xff" * 2**20,
    )
    yield "tiff whose directories form a ring", _looping_tiff()
    yield (
        "tiff of 2³² strips",
        tiff[:8] + tiff[8:].replace(b"\x11\x01\x04\x00\x01\x00\x00\x00", b"\x11\x01\x04\x00\xff\xff\xff\xff"),
    )
    yield "tiff bomb, deflate", _tiff_bomb()
    yield "webp that says it is 16,383²", _webp_sized()
    yield "bmp of 2³¹ lines", _bmp_sized(64, 2**31 - 1)
    yield "bmp of negative height", _bmp_sized(64, -(2**31))
    yield "bmp of run lengths without end", _bmp_rle()
    yield "avif header alone", seeds("AVIF")[0][:60]
    yield "heic brand around nothing", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    yield "svg that includes itself", b"<svg xmlns='http://www.w3.org/2000/svg'><use href='#a'/></svg>"
    yield "zeros", bytes(2**20)
    yield "signature and noise", b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(2**16)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _png(width: int, height: int, pixels: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _with_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    return png[:33] + _chunk(name, body) + png[33:]


def _jpeg_sized(jpeg: bytes, width: int, height: int) -> bytes:
    at = next(jpeg.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in jpeg)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def _segment(body: bytes, marker: int = 0xE1) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _looping_tiff() -> bytes:
    """One directory of one tag, whose next directory is itself."""
    return b"II*\0\x08\0\0\0" + b"\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<I", 8)


def _tiff_bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (7000, 7000)).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    return buffer.getvalue()


def _gif_frame() -> bytes:
    return (
        b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + b",\0\0\0\0\x01\0\x01\0\x80\0\0\0\xff\xff\xff\x02\x02\x44\x01\0"
    )


def _webp_sized() -> bytes:
    data = bytearray(seeds("WEBP")[1])
    at = data.find(b"VP8X")
    if at >= 0:
        data[at + 12 : at + 18] = b"\xfe\x3f\0\xfe\x3f\0"
    return bytes(data)


def _bmp_sized(width: int, height: int) -> bytes:
    data = bytearray(seeds("BMP")[0])
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _bmp_rle() -> bytes:
    data = bytearray(seeds("BMP")[1])
    data[30:34] = struct.pack("<I", 1)
    return bytes(data[:1078]) + b"\xff\x00" * 2**18
