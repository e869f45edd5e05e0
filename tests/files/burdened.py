"""Files that are fine and carry more than a picture: much of it, damaged, or made to look like something else."""

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.files.turned import app1, chunk, encoded, exif, jpeg, png, riff, segment, stored, webp

#: More than Pillow unpacks of one text.
OVER_A_MEGABYTE = 2**20 + 1
#: More beginnings of a scan than a JPEG may have.
MANY_SCANS = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 200


def files() -> Iterator[tuple[str, bytes]]:
    """A name and a file for each way."""
    yield from _pngs()
    yield from _jpegs()
    yield "webp, a chunk that nobody knows", webp([(b"what", bytes(101))], flags=0)
    yield "webp, xmp of noise", webp([(b"XMP ", b"<" * 5000)], flags=4)
    yield "webp, bytes after its end", encoded("WEBP") + b"\xff\xda" * 300
    yield "gif, bytes after its end", encoded("GIF") + bytes(5000)
    yield "bmp, bytes after its end", encoded("BMP") + bytes(5000)
    yield "avif, bytes after its end", encoded("AVIF") + riff(b"free", bytes(50))


def _pngs() -> Iterator[tuple[str, bytes]]:
    long = zlib.compress(bytes(OVER_A_MEGABYTE))
    burdens = {
        "zTXt": (b"zTXt", b"key\0\0" + long),
        "iTXt": (b"iTXt", b"key\0\1\0\0\0" + long),
        "iCCP": (b"iCCP", b"name\0\0" + long),
    }
    for name, (kind, body) in burdens.items():
        yield f"png, {name} of over a megabyte", png(before=[(kind, body)])
        yield f"png, {name} of over a megabyte after its pixels", png(after=[(kind, body)])
        yield f"png, {name} packed in a way that nobody knows", png(before=[(kind, b"key\0\7" + long[:50])])
        yield f"png, {name} of nothing", png(before=[(kind, b"")])
    yield "png, tEXt of two megabytes", png(before=[(b"tEXt", b"key\0" + b"t" * 2**21)])
    yield (
        "png, texts of seventy megabytes",
        png(before=[(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20)))] * 70),
    )
    yield "png, tEXt without a key", png(before=[(b"tEXt", b"\0words")])
    for name, body in {
        b"tIME": bytes(7), b"tEXt": b"k\0words", b"zTXt": b"k\0\0" + zlib.compress(b"words"), b"iTXt": b"k\0\0\0\0\0w",
        b"gAMA": struct.pack(">I", 1000), b"cHRM": bytes(32), b"sRGB": b"\0", b"iCCP": b"n\0\0" + long[:99],
        b"pHYs": bytes(9), b"bKGD": bytes(6), b"tRNS": struct.pack(">HHH", 0, 0, 90), b"eXIf": exif(6),
        b"sBIT": b"\x08\x08\x08", b"acTL": struct.pack(">II", 1, 0), b"prVt": b"private",
    }.items():  # fmt: skip
        whole = chunk(name, body)
        yield (
            f"png, {name.decode()} with a wrong checksum",
            png(before=[(name, body)]).replace(whole, whole[:-4] + bytes(byte ^ 0xFF for byte in whole[-4:])),
        )
    for name in (b"gAMA", b"pHYs", b"cHRM", b"sRGB", b"tRNS", b"acTL", b"eXIf", b"tIME"):
        yield f"png, {name.decode()} that is empty", png(before=[(name, b"")])
    yield "png, a chunk of a kind that is no letters", png(before=[(b"a1b2", b"x")])
    yield "png, bytes after its end", png() + MANY_SCANS


def _jpegs() -> Iterator[tuple[str, bytes]]:
    video = b"\0\0\0\x18ftypmp42" + bytes(12) + MANY_SCANS + b"Exif\0\0" * 100
    yield "jpeg, a motion photo", jpeg(before=[app1(exif(1))]) + video
    yield "jpeg, a motion photo that says where it ends", jpeg() + video + b"\xff\xd9"
    yield "jpeg, many scans in its metadata", jpeg(before=[segment(0xE5, MANY_SCANS)])
    yield "jpeg, many scans in its exif", jpeg(before=[app1(exif(1) + MANY_SCANS)])
    yield "jpeg, many scans in a comment", jpeg(late=[segment(0xFE, MANY_SCANS)])
    yield "jpeg, many exif segments", jpeg(before=[app1(exif(1))] * 100)
    yield "jpeg, a small picture of itself within", jpeg(before=[app1(exif(1) + jpeg())])
    yield "jpeg, a profile of noise", jpeg(before=[segment(0xE2, b"ICC_PROFILE\0\1\1" + b"\xff" * 500)])
    yield "jpeg, a profile in parts that are missing", jpeg(before=[segment(0xE2, b"ICC_PROFILE\0\7\x09")])
    yield "jpeg, resources of noise", jpeg(before=[segment(0xED, b"Photoshop 3.0\x008BIM" + b"\xff" * 50)])
    yield "jpeg, an index of views that is noise", jpeg(before=[segment(0xE2, b"MPF\0" + b"\xff" * 50)])
    yield "jpeg, jfif that is short", _without_jfif(segment(0xE0, b"JFIF\0\1"))
    yield "jpeg, no jfif", _without_jfif(b"")
    yield "jpeg, segments of no length", jpeg(before=[b"\xff\xe7\0\2", b"\xff\xe1\0\2", b"\xff\xfe\0\2"])
    yield "jpeg, bytes of nothing between its segments", jpeg(late=[b"\0\0\0\0"])
    yield "jpeg, several views", _several_views()


def _without_jfif(instead: bytes) -> bytes:
    data = jpeg()
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + instead + data[end:]


def _several_views() -> bytes:
    buffer = io.BytesIO()
    stored().save(buffer, "MPO", save_all=True, quality=95, append_images=[Image.new("RGB", (64, 48))])
    return buffer.getvalue()
