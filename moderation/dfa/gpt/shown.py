"""Of a file, what a browser shows: the parts that make its picture, which way up, and which frame comes first.

People judge what their browser shows them, and so do we. Whatever else a file carries is not read at all: a text or a
profile that is damaged, huge or hostile spoils no picture, and a word about the orientation in a place where browsers
do not look turns none. `tests/files` compares this with Chromium, case by case.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from moderation.errors import ImageCorrupt, TooManyPixels

#: EXIF tag of the orientation (EXIF 2.32, 4.6.4), and the pointer to the directory in which EXIF's own tags lie.
_ORIENTATION, _EXIF_DIRECTORY = 0x0112, 0x8769
_SHORT, _LONG = 3, 4


@dataclass(frozen=True)
class Place:
    """Where a frame lies on the canvas of its animation. The rest of the canvas is transparent."""

    left: int
    top: int
    #: Of the canvas.
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """What is left of a file."""

    data: bytes
    #: 1 to 8, as EXIF counts. 1: as it is stored.
    orientation: int = 1
    #: Of an animation. None: a decoder knows.
    frames: int | None = None
    #: None: the picture is the canvas.
    place: Place | None = None


def as_shown(data: bytes, kind: str, *, max_scans: int) -> Shown:
    """Raise ImageCorrupt for an animation that no browser shows, TooManyPixels for a JPEG of too many scans."""
    match kind:
        case "JPEG":
            return _jpeg(data, max_scans)
        case "PNG":
            return _png(data)
        case "AVIF" | "HEIC":
            return Shown(_without_metadata(data))
        case "GIF":
            return _gif(data)
        case "WEBP":
            return Shown(_with_clear_canvas(data))
        case _:
            return Shown(data)


# --- EXIF


def exif_orientation(block: bytes) -> int:
    """What a TIFF structure says (TIFF 6.0, section 2). 1 unless it says 2 to 8 in the one way that browsers read.

    The first entry that is a single SHORT between 1 and 8 counts, in the first directory or in EXIF's own.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (first,) = struct.unpack_from(order + "I", block, 4)
    return _stated(block, order, first, inner=False) or 1


def _stated(block: bytes, order: str, at: int, *, inner: bool) -> int | None:
    if at + 2 > len(block):
        return None
    (count,) = struct.unpack_from(order + "H", block, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, values = struct.unpack_from(order + "HHI", block, entry)
        if tag == _ORIENTATION and (kind, values) == (_SHORT, 1):
            (value,) = struct.unpack_from(order + "H", block, entry + 8)
            if 1 <= value <= 8:
                return value
        elif tag == _EXIF_DIRECTORY and (kind, values) == (_LONG, 1) and not inner:
            (there,) = struct.unpack_from(order + "I", block, entry + 8)
            if found := _stated(block, order, there, inner=True):
                return found
    return None


# --- JPEG (ITU T.81, annex B)

#: A marker: what is neither a stuffed byte nor a restart, which stand within a scan.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_SOS, _EOI = 0xDA, 0xD9
_ALONE = {0x01, 0xD8}
#: Bytes of a JFIF segment that a decoder recognises (libjpeg, jdmarker.c).
_JFIF_BYTES = 14


def _jpeg(data: bytes, max_scans: int) -> Shown:
    """Without metadata. Those that say how colours are stored stay, and the index of a file of several views."""
    kept, exif, layered = [data[:2]], None, False
    scans, start = 0, len(data)
    for marker, at, end in _segments(data):
        body = data[at + 4 : end]
        if marker == _SOS:
            start = min(start, at)
            scans += 1
            if scans > max_scans:
                raise TooManyPixels(f"The JPEG asks for more than {max_scans} passes over its pixels.")
        elif scans:
            continue
        elif marker == 0xE1:
            if exif is None and body.startswith(b"Exif\0") and len(body) > 6:
                exif = body[6:]
            # Its second view is light to be added to the first, and no picture.
            layered = layered or b' hdrgm:Version="' in body
        elif _makes_pixels(marker, body):
            kept.append(data[at:end])
    if layered:
        kept = [part for part in kept if part[1] != 0xE2]
    return Shown(b"".join([*kept, data[start:]]), orientation=exif_orientation(exif or b""))


def _makes_pixels(marker: int, body: bytes) -> bool:
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES
    if marker == 0xE2:
        return body.startswith(b"MPF\0")
    return marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, where it is, and where its segment ends. What follows the end of the picture is not looked at."""
    at = 2
    while found := _MARKER.search(data, at):
        marker = found[1][0]
        if marker == _EOI:
            return
        at = found.end()
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        end = min(at + max(length, 2), len(data))
        yield marker, at - 2, end
        at = end


# --- PNG (third edition, with animation)

_PNG_SIGNATURE = 8
_MOST_FRAMES = 0x7FFFFFFF


def _png(data: bytes) -> Shown:
    """The chunks that make the first frame that is shown, as a PNG of that frame alone."""
    reading = _Png()
    for name, body, whole, intact in _chunks(data):
        reading.take(name, body, whole, intact=intact)
        if name == b"IEND":
            break
    return reading.shown(data[:_PNG_SIGNATURE])


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview, bool]]:
    """Name, body, the whole chunk and whether its checksum holds. The last one may be cut off."""
    view, at = memoryview(data), _PNG_SIGNATURE
    while at + 8 <= len(data):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        name = bytes(view[at + 4 : at + 8])
        # Of pixels it is not looked at: what does not unpack is found damaged anyway.
        intact = name == b"IDAT" or view[end : end + 4] == zlib.crc32(view[at + 4 : end]).to_bytes(4, "big")
        yield name, view[at + 8 : end], view[at : end + 4], intact
        at = end + 4


class _Png:
    """What the chunks that were read so far make."""

    def __init__(self) -> None:
        self.head: list[memoryview] = []
        self.pixels: list[memoryview] = []
        self.end: list[memoryview] = []
        self.exif: bytes | None = None
        #: As many as the animation says. None: it is none.
        self.said: int | None = None
        self.frames = 0
        #: Of the first frame: the last control chunk before its pixels.
        self.control: bytes | None = None
        #: Whether the pixels of every viewer without animation are the first frame too.
        self.starts_with_default = False
        self.first: list[bytes] = []
        self.sequence = 0
        self.broken = False

    def take(self, name: bytes, body: memoryview, whole: memoryview, *, intact: bool) -> None:
        match name:
            case b"IHDR" | b"PLTE":
                self.head.append(whole)
            case b"tRNS" if intact and not self.pixels and len(body) >= self._transparency_bytes():
                self.head.append(whole)
            case b"IDAT":
                if not self.pixels:
                    self.starts_with_default = self.control is not None
                self.pixels.append(whole)
                self.broken = self.broken or bool(self.first)
            case b"IEND":
                self.end.append(whole)
            case b"eXIf" if intact and not self.pixels and self.exif is None:
                self.exif = bytes(body)
            case b"acTL" if intact and not self.pixels and self.said is None and len(body) == 8:
                said = int.from_bytes(body[:4], "big")
                self.said = said if 0 < said <= _MOST_FRAMES else None
            case b"fcTL" if intact:
                self._control(bytes(body))
            case b"fdAT" if self.frames < 2 and not self.starts_with_default:
                self._frame_data(bytes(body))
            case _:
                pass

    def _transparency_bytes(self) -> int:
        """What a transparent colour takes, by the header's kind of colour."""
        kind = self.head[0][17] if self.head and len(self.head[0]) > 17 else None
        return {0: 2, 2: 6}.get(kind or 0, 1)

    def _control(self, body: bytes) -> None:
        if not self.first and not self.starts_with_default:
            self.control = body
            self._in_sequence(body)
            self.frames = 1
        else:
            self.frames += 1

    def _frame_data(self, body: bytes) -> None:
        self._in_sequence(body)
        self.first.append(body[4:])

    def _in_sequence(self, body: bytes) -> None:
        self.broken = self.broken or int.from_bytes(body[:4], "big") != self.sequence
        self.sequence += 1

    def shown(self, signature: bytes) -> Shown:
        orientation = exif_orientation(self.exif or b"")
        if self.said is None:
            return Shown(b"".join([signature, *self.head, *self.pixels, *self.end]), orientation, frames=1)
        place = self._place()
        frames = min(self.said, self.frames)
        if self.starts_with_default:
            return Shown(b"".join([signature, *self.head, *self.pixels, *self.end]), orientation, frames)
        assert self.control is not None
        width, height = struct.unpack_from(">II", self.control, 4)
        header = struct.pack(">II", width, height) + bytes(self.head[0][16:21])
        parts = [_chunk(b"IHDR", header), *self.head[1:], _chunk(b"IDAT", b"".join(self.first)), *self.end]
        return Shown(b"".join([signature, *parts]), orientation, frames, place)

    def _place(self) -> Place:
        """Where the first frame lies. Raise ImageCorrupt when no browser would show it."""
        control, head = self.control or b"", bytes(self.head[0][8:]) if self.head else b""
        named = bool(self.head) and self.head[0][4:8] == b"IHDR"
        if not self.pixels or self.broken or not named or len(control) != 26 or len(head) < 13:
            raise ImageCorrupt("The PNG file's animation is damaged: browsers do not show it.")
        width, height, left, top = struct.unpack_from(">IIII", control, 4)
        canvas = struct.unpack_from(">II", head)
        inside = 0 < width <= canvas[0] - left and 0 < height <= canvas[1] - top
        whole = (width, height) == canvas or not self.starts_with_default
        drawn = bool(self.first) or self.starts_with_default
        if not inside or not whole or not drawn or control[24] > 2 or control[25] > 1:
            raise ImageCorrupt("The PNG file's animation is damaged: browsers do not show it.")
        return Place(left, top, *canvas)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + zlib.crc32(name + body).to_bytes(4, "big")


# --- GIF, as of 1989


def _gif(data: bytes) -> Shown:
    """With a canvas as large as its first frame. Where that does not reach browsers show nothing, no background."""
    at = next(gif_frames(data), None)
    if at is None or at + 9 > len(data):
        return Shown(data)
    canvas = struct.unpack_from("<HH", data, 6)
    left, top, width, height = struct.unpack_from("<HHHH", data, at + 1)
    # One that reaches beyond the canvas makes it larger.
    place = Place(left, top, max(canvas[0], left + width), max(canvas[1], top + height))
    if (width, height) == (place.width, place.height) == canvas:
        return Shown(data)
    alone = bytearray(data)
    struct.pack_into("<HH", alone, 6, width, height)
    struct.pack_into("<HH", alone, at + 1, 0, 0)
    return Shown(bytes(alone), place=place)


def gif_frames(data: bytes) -> Iterator[int]:
    """Where each image block begins (GIF89a, sections 17 to 27)."""
    at = 13 + _gif_palette(data, 10)
    while at < len(data):
        block = data[at]
        if block == 0x2C:
            yield at
            at = _gif_after_blocks(data, at + 11 + _gif_palette(data, at + 9))
        elif block == 0x21:
            at = _gif_after_blocks(data, at + 2)
        else:
            return


def _gif_palette(data: bytes, at: int) -> int:
    """Bytes of the colour table that the flags at this offset announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_after_blocks(data: bytes, at: int) -> int:
    """The offset after a chain of sub-blocks, each led by its length and the last of length 0."""
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


# --- WebP (RFC 9649)

_WEBP_FLAGS = 20
_ANIMATED, _HAS_ALPHA = 0x02, 0x10


def _with_clear_canvas(data: bytes) -> bytes:
    """An animation whose canvas is transparent where its first frame does not reach, whatever its header says."""
    if data[12:16] != b"VP8X" or not data[_WEBP_FLAGS : _WEBP_FLAGS + 1] or not data[_WEBP_FLAGS] & _ANIMATED:
        return data
    return data[:_WEBP_FLAGS] + bytes([data[_WEBP_FLAGS] | _HAS_ALPHA]) + data[_WEBP_FLAGS + 1 :]


# --- AVIF and HEIC: boxes (ISO 14496-12)

#: Boxes that hold boxes, and the bytes of their own before these. Those of `iinf` depend on its version.
_HOLDERS = {b"moov": 0, b"trak": 0, b"meta": 4, b"iinf": 6}
#: Items that are no picture: EXIF, and XMP among others.
_METADATA = (b"Exif", b"mime")


def _without_metadata(data: bytes) -> bytes:
    """The same boxes, in which metadata are items of a kind that nobody knows: the picture's own boxes turn it."""
    places = list(_metadata_items(data, 0, len(data), depth=5))
    if not places:
        return data
    changed = bytearray(data)
    for at in places:
        changed[at : at + 4] = b"none"
    return bytes(changed)


def _metadata_items(data: bytes, at: int, stop: int, *, depth: int) -> Iterator[int]:
    """Where the kinds of such items are written."""
    while at + 8 <= stop and depth:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start, end = at + 8, at + size if size else stop
        if size == 1:
            start, end = at + 16, at + int.from_bytes(data[at + 8 : at + 16], "big")
        if end < start or end > stop:
            return
        if name == b"infe" and data[start : start + 1] in (b"\x02", b"\x03"):
            # Version and flags, an id of two or four bytes, protection, kind.
            kind = start + 4 + (2 if data[start] == 2 else 4) + 2
            if data[kind : kind + 4] in _METADATA and kind + 4 <= end:
                yield kind
        elif name in _HOLDERS:
            own = _HOLDERS[name] + (2 if name == b"iinf" and data[start : start + 1] != b"\0" else 0)
            yield from _metadata_items(data, start + own, end, depth=depth - 1)
        at = end
