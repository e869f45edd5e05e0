"""The part of a file that a browser shows: its picture, its orientation, and the frame that is seen longest.

People judge what their browser shows, and so do we. Nothing else in a file is read: a damaged, huge or hostile text or
profile spoils no picture, and an orientation in a place that browsers ignore rotates none. `tests/files` compares this
with Chromium, case by case.
"""

import enum
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from moderation.dfa.gpt import colours
from moderation.errors import ImageCorrupt, TooManyPixels

#: EXIF tag of the orientation (EXIF 2.32, 4.6.4), and the pointer to the directory of EXIF's own tags.
_ORIENTATION, _EXIF_DIRECTORY = 0x0112, 0x8769
_SHORT, _LONG = 3, 4


class Disposal(enum.Enum):
    """What happens to a frame's area before the next frame is drawn."""

    KEEP = enum.auto()
    CLEAR = enum.auto()
    RESTORE = enum.auto()


@dataclass(frozen=True)
class Layer:
    """One frame of an animation as a file of its own, and its place. It may reach beyond the canvas."""

    data: bytes
    left: int
    top: int
    width: int
    height: int
    disposal: Disposal = Disposal.KEEP
    #: True: drawn over the canvas. False: replaces its area.
    over: bool = True


@dataclass(frozen=True)
class Shown:
    """The part of a file that is decoded."""

    data: bytes
    #: 1 to 8, as in EXIF. 1: as stored.
    orientation: int = 1
    #: An ICC profile. None: it has none, or the decoder finds it.
    profile: bytes | None = None
    #: Number of an animation's frames. None: the decoder knows it.
    frames: int | None = None
    #: Index of the frame that is seen longest.
    frame: int = 0
    #: Width and height of the canvas for the layers. It starts transparent.
    canvas: tuple[int, int] = (0, 0)
    #: All layers up to that frame, in order. Empty: the decoder reads the data itself.
    layers: Sequence[Layer] = field(default=())


def as_shown(data: bytes, kind: str, *, max_scans: int) -> Shown:
    """The part of a file that a browser shows.

    Raise ImageCorrupt for an animation that no browser shows, TooManyPixels for too many frames or scans.
    """
    match kind:
        case "JPEG":
            return _jpeg(data, max_scans)
        case "PNG":
            return _png(data)
        case "AVIF" | "HEIC":
            return _in_boxes(data, animated=data[8:12] == b"avis")
        case "GIF":
            return _gif(data)
        case "WEBP":
            return _webp(data)
        case _:
            return Shown(data)


# --- time


#: Most frames of an animation.
_FRAMES_AT_MOST = 10_000
#: Browsers replace a delay of up to the first by the second, in seconds.
_TOO_SHORT, _INSTEAD = 0.01, 0.1


def seen_longest(seconds: Sequence[float], *, ends: bool) -> int:
    """The frame of an animation that people see longest: the last one if it ends, otherwise the first of the longest.

    An animation may begin with a picture that is too short to be seen.
    """
    if not seconds or ends:
        return max(len(seconds) - 1, 0)
    seen = [_INSTEAD if delay <= _TOO_SHORT else delay for delay in seconds]
    return seen.index(max(seen))


def _check_count(frames: int) -> None:
    """Raise TooManyPixels when there are too many frames to search for the one seen longest."""
    if frames >= _FRAMES_AT_MOST:
        raise TooManyPixels(f"The animation has more than {_FRAMES_AT_MOST:,} frames.")


# --- EXIF


def exif_orientation(block: bytes) -> int:
    """The orientation in a TIFF structure (TIFF 6.0, section 2), as browsers read it. 1 when there is none.

    The first entry that is a single SHORT from 1 to 8 counts, in the first directory or in EXIF's own.
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

#: A marker that is neither a stuffed byte nor a restart: those are inside a scan.
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")
_SOS, _EOI = 0xDA, 0xD9
_ALONE = {0x01, 0xD8}
#: Bytes of a JFIF segment that a decoder recognises (libjpeg, jdmarker.c).
_JFIF_BYTES = 14
#: First bytes of a segment with a colour profile (ICC.1:2022, annex B.4).
_ICC = b"ICC_PROFILE\0"


def _jpeg(data: bytes, max_scans: int) -> Shown:
    """The JPEG without metadata, except those about stored colours and the index of several views."""
    kept, exif, layered = [data[:2]], None, False
    profile = list[bytes]()
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
            # Its second view is a gain map for the first, not a picture.
            layered = layered or b' hdrgm:Version="' in body
        elif marker == 0xE2 and body.startswith(_ICC):
            profile.append(body[len(_ICC) :])
        elif _makes_pixels(marker, body):
            kept.append(data[at:end])
    if layered:
        kept = [part for part in kept if part[1] != 0xE2]
    upright = exif_orientation(exif or b"")
    return Shown(b"".join([*kept, data[start:]]), upright, colours.of_parts(profile))


def _makes_pixels(marker: int, body: bytes) -> bool:
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= _JFIF_BYTES
    if marker == 0xE2:
        return body.startswith(b"MPF\0")
    return marker == 0xEE or not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each marker, its offset, and the end of its segment, up to the end of the picture."""
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
    """The chunks of the shown picture, or the layers of an animation, each a PNG of its own."""
    reading = _Png()
    for name, body, whole, intact in _chunks(data):
        reading.take(name, body, whole, intact=intact)
        if name == b"IEND":
            break
    return reading.shown(data[:_PNG_SIGNATURE])


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview, bool]]:
    """Each chunk's name, body, whole bytes, and whether its checksum is right. The last one may be cut off."""
    view, at = memoryview(data), _PNG_SIGNATURE
    while at + 8 <= len(data):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        name = bytes(view[at + 4 : at + 8])
        # Not checked for pixels: damaged ones fail to unpack anyway.
        intact = name == b"IDAT" or view[end : end + 4] == zlib.crc32(view[at + 4 : end]).to_bytes(4, "big")
        yield name, view[at + 8 : end], view[at : end + 4], intact
        at = end + 4


@dataclass
class _Frame:
    """A control chunk and its pixels."""

    control: bytes
    pixels: list[bytes] = field(default_factory=list[bytes])


class _Png:
    """Collects the chunks of a PNG."""

    def __init__(self) -> None:
        self.head: list[memoryview] = []
        self.pixels: list[memoryview] = []
        self.end: list[memoryview] = []
        self.exif: bytes | None = None
        #: The first chunk of each kind about colours.
        self.colours: dict[bytes, bytes] = {}
        #: The animation's stated number of frames and of plays (0: for ever). None: not an animation.
        self.said: tuple[int, int] | None = None
        self.frames: list[_Frame] = []
        #: True when the still picture is also the first frame.
        self.starts_with_default = False
        self.sequence = 0
        #: Number of frames before the sequence breaks. None: it is intact.
        self.broken: int | None = None

    def take(self, name: bytes, body: memoryview, whole: memoryview, *, intact: bool) -> None:
        match name:
            case b"IHDR" | b"PLTE":
                self.head.append(whole)
            case b"tRNS" if intact and not self.pixels and len(body) >= self._transparency_bytes():
                self.head.append(whole)
            case b"IDAT":
                self._default_pixels(whole)
            case b"IEND":
                self.end.append(whole)
            case b"eXIf" if intact and not self.pixels and self.exif is None:
                self.exif = bytes(body)
            case b"cICP" | b"iCCP" | b"sRGB" | b"gAMA" | b"cHRM" if intact and not self.pixels:
                self.colours.setdefault(name, bytes(body))
            case b"acTL" if intact and not self.pixels and self.said is None and len(body) == 8:
                frames, plays = struct.unpack(">II", body)
                self.said = (frames, plays) if 0 < frames <= _MOST_FRAMES else None
            case b"fcTL" if intact:
                self._control(bytes(body))
            case b"fdAT":
                self._frame_pixels(bytes(body))
            case _:
                pass

    def _transparency_bytes(self) -> int:
        """Bytes of a transparent colour, by the header's colour type."""
        kind = self.head[0][17] if self.head and len(self.head[0]) > 17 else 0
        return {0: 2, 2: 6}.get(kind, 1)

    def _default_pixels(self, whole: memoryview) -> None:
        if not self.pixels:
            self.starts_with_default = bool(self.frames)
            if any(frame.pixels for frame in self.frames):
                self.broken = 0
        self.pixels.append(whole)
        if self.starts_with_default:
            self.frames[0].pixels.append(bytes(whole[8:-4]))

    def _control(self, body: bytes) -> None:
        self._follow(body, after=len(self.frames))
        if self.frames and not self.frames[-1].pixels:
            # The last control before the pixels counts.
            self.frames[-1] = _Frame(body)
        else:
            _check_count(len(self.frames))
            self.frames.append(_Frame(body))

    def _frame_pixels(self, body: bytes) -> None:
        self._follow(body, after=max(len(self.frames) - 1, 0))
        if self.frames:
            self.frames[-1].pixels.append(body[4:])
        else:
            self.broken = 0

    def _follow(self, body: bytes, *, after: int) -> None:
        """Check the sequence number. When it is not the next one, the animation breaks after `after` frames."""
        if int.from_bytes(body[:4], "big") != self.sequence and self.broken is None:
            self.broken = after
        self.sequence += 1

    def shown(self, signature: bytes) -> Shown:
        orientation = exif_orientation(self.exif or b"")
        profile = _png_profile(self.colours)
        still = b"".join([signature, *self.head, *self.pixels, *self.end])
        if self.said is None:
            return Shown(still, orientation, profile, frames=1)
        said, plays = self.said
        frames = self.frames[:said]
        delays = [_delay(frame.control) for frame in frames]
        longest = seen_longest(delays, ends=plays > 0)
        if longest == 0 and self.starts_with_default:
            self._canvas_of(frames[:1])
            return Shown(still, orientation, profile, frames=len(frames))
        canvas = self._canvas_of(frames[: longest + 1])
        layers = tuple(self._layer(signature, frame) for frame in frames[: longest + 1])
        return Shown(still, orientation, profile, len(frames), longest, canvas, layers)

    def _canvas_of(self, frames: Sequence[_Frame]) -> tuple[int, int]:
        """The canvas's width and height. Raise ImageCorrupt when no browser would show these frames on it."""
        damaged = ImageCorrupt("The PNG file's animation is damaged: browsers do not show it.")
        head = self.head[0] if self.head else memoryview(b"")
        holds = self.broken is None or self.broken >= len(frames)
        if head[4:8] != b"IHDR" or len(head) < 21 or not self.pixels or not frames or not holds:
            raise damaged
        canvas = struct.unpack_from(">II", head, 8)
        for number, frame in enumerate(frames):
            whole = number == 0 and self.starts_with_default
            if not frame.pixels or not _fits(frame.control, canvas, whole=whole):
                raise damaged
        return canvas

    def _layer(self, signature: bytes, frame: _Frame) -> Layer:
        width, height, left, top = struct.unpack_from(">IIII", frame.control, 4)
        header = struct.pack(">II", width, height) + bytes(self.head[0][16:21])
        parts = [_chunk(b"IHDR", header), *self.head[1:], _chunk(b"IDAT", b"".join(frame.pixels)), *self.end]
        disposal, over = _PNG_DISPOSALS[frame.control[24]], frame.control[25] == 1
        return Layer(b"".join([signature, *parts]), left, top, width, height, disposal, over)


def _png_profile(said: Mapping[bytes, bytes]) -> bytes | None:
    """The colour profile of a PNG: the first chunk in this order (third edition, 13.13). None: it is sRGB."""
    profile = colours.of_cicp(said.get(b"cICP", b"")) or colours.of_png(said.get(b"iCCP", b""))
    if profile is not None or said.get(b"sRGB", b"") in _INTENTS:
        return profile
    return colours.of_gamma(said.get(b"gAMA", b""), said.get(b"cHRM", b""))


#: All valid contents of an sRGB chunk.
_INTENTS = (b"\0", b"\1", b"\2", b"\3")
_PNG_DISPOSALS = (Disposal.KEEP, Disposal.CLEAR, Disposal.RESTORE)


def _delay(control: bytes) -> float:
    """The frame's delay in seconds. 0 when the chunk is too short."""
    if len(control) < 24:
        return 0.0
    numerator, denominator = struct.unpack_from(">HH", control, 20)
    return numerator / (denominator or 100)


def _fits(control: bytes, canvas: tuple[int, int], *, whole: bool) -> bool:
    if len(control) != 26 or control[24] >= len(_PNG_DISPOSALS) or control[25] > 1:
        return False
    width, height, left, top = struct.unpack_from(">IIII", control, 4)
    if whole and (width, height) != canvas:
        return False
    return 0 < width <= canvas[0] - left and 0 < height <= canvas[1] - top


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + zlib.crc32(name + body).to_bytes(4, "big")


# --- GIF, as of 1989


@dataclass(frozen=True)
class _Block:
    """An image block, and the control extension before it."""

    at: int
    end: int
    #: Offset of its control extension. None: it has none.
    control: int | None


def _gif(data: bytes) -> Shown:
    """The GIF's frames on a transparent canvas: browsers ignore its background colour."""
    blocks, ends = _gif_blocks(data)
    if not blocks:
        return Shown(data)
    frame = seen_longest([_gif_delay(data, block) for block in blocks], ends=ends)
    left, top, width, height = struct.unpack_from("<HHHH", data, blocks[0].at + 1)
    said = struct.unpack_from("<HH", data, 6)
    # A first frame larger than the canvas enlarges it.
    canvas = max(said[0], left + width), max(said[1], top + height)
    if frame == 0 and (width, height) == canvas == said:
        return Shown(data, frames=len(blocks))
    layers = tuple(_gif_layer(data, block) for block in blocks[: frame + 1])
    return Shown(data, frames=len(blocks), frame=frame, canvas=canvas, layers=layers)


def _gif_blocks(data: bytes) -> tuple[list[_Block], bool]:
    """All image blocks, and whether the animation ends: it does unless it is set to loop for ever."""
    at = 13 + _gif_palette(data, 10)
    blocks: list[_Block] = []
    control, ends = None, True
    while at + 9 < len(data):
        block = data[at]
        if block == 0x2C:
            end = _gif_after_blocks(data, at + 11 + _gif_palette(data, at + 9))
            _check_count(len(blocks))
            blocks.append(_Block(at, end, control))
            control = None
        elif block == 0x21:
            end = _gif_after_blocks(data, at + 2)
            if data[at + 1 : at + 3] == b"\xf9\x04":
                control = at
            elif data[at + 3 : at + 14] in _LOOPS and data[at + 14 : at + 16] == b"\x03\x01":
                ends = data[at + 16 : at + 18] != b"\0\0"
        else:
            break
        at = end
    return blocks, ends


_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_GIF_DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.RESTORE}


def _gif_delay(data: bytes, block: _Block) -> float:
    """The frame's delay in seconds."""
    if block.control is None:
        return 0.0
    return int.from_bytes(data[block.control + 4 : block.control + 6], "little") / 100


def _gif_layer(data: bytes, block: _Block) -> Layer:
    """The block as a GIF of its own, whose canvas it fills."""
    left, top, width, height = struct.unpack_from("<HHHH", data, block.at + 1)
    palette = data[13 : 13 + _gif_palette(data, 10)]
    control = b"" if block.control is None else data[block.control : block.control + 8]
    place = struct.pack("<HHHH", 0, 0, width, height)
    head = b"GIF89a" + place[4:] + data[10:13] + palette + control
    own = head + b"\x2c" + place + data[block.at + 9 : block.end] + b";"
    disposal = _GIF_DISPOSALS.get(control[3] >> 2 & 7 if control else 0, Disposal.KEEP)
    return Layer(own, left, top, width, height, disposal)


def _gif_palette(data: bytes, at: int) -> int:
    """Bytes of the colour table, from the flags at this offset."""
    flags = data[at] if at < len(data) else 0
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_after_blocks(data: bytes, at: int) -> int:
    """The offset after a chain of sub-blocks. Each begins with its length; the last has length 0."""
    while at < len(data) and data[at]:
        at += data[at] + 1
    return at + 1


# --- WebP (RFC 9649)

_WEBP_FLAGS = 20
_ANIMATED, _HAS_ALPHA, _PROFILED = 0x02, 0x10, 0x20


def _webp(data: bytes) -> Shown:
    """The WebP as shown. An animation gets a transparent canvas and sRGB colours, even if the file says otherwise."""
    flags = data[_WEBP_FLAGS] if data[12:16] == b"VP8X" and len(data) > _WEBP_FLAGS else 0
    if not flags & _ANIMATED:
        profile = next((body for name, body in _webp_chunks(data) if name == b"ICCP"), None)
        return Shown(data, profile=profile if flags & _PROFILED else None)
    delays, ends = list[float](), False
    for name, body in _webp_chunks(data):
        if name == b"ANIM":
            ends = body[4:6] != b"\0\0"
        elif name == b"ANMF":
            _check_count(len(delays))
            delays.append(int.from_bytes(body[12:15], "little") / 1000)
    clear = data[:_WEBP_FLAGS] + bytes([flags | _HAS_ALPHA]) + data[_WEBP_FLAGS + 1 :]
    return Shown(clear, frame=seen_longest(delays, ends=ends))


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


# --- AVIF and HEIC: boxes (ISO 14496-12)

#: Boxes that hold boxes, and the bytes of their own before these. For `iinf` these depend on its version.
_HOLDERS = {
    b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"meta": 4, b"iinf": 6, b"iprp": 0, b"ipco": 0,
}  # fmt: skip
#: Depth of the deepest box that we read.
_DEPTH = 6
#: Items that are not pictures: EXIF, and others such as XMP.
_METADATA = (b"Exif", b"mime")


def _in_boxes(data: bytes, *, animated: bool) -> Shown:
    """The file with its metadata items renamed to an unknown kind, so that only the picture's own boxes rotate it.

    A file whose first brand is not a sequence is shown as a still picture.
    """
    changed, delays, scale = bytearray(data), list[float](), 1
    profile: bytes | None = None
    for name, start, end in _boxes(data, 0, len(data), depth=_DEPTH):
        match name:
            case b"infe":
                _hide_metadata(changed, start, end)
            case b"colr" if data[start : start + 4] == b"nclx" and end - start >= 8 and profile is None:
                profile = colours.of_nclx(*struct.unpack_from(">HH", data, start + 4))
            case b"mdhd" if end - start >= 32:
                at = start + (20 if data[start] else 12)  # a later version has times of eight bytes
                scale = int.from_bytes(data[at : at + 4], "big")
            case b"stts" if not delays:
                delays = _delays(data[start:end], scale or 1)
            case _:
                pass
    longest = seen_longest(delays, ends=False) if animated else 0
    return Shown(bytes(changed), profile=profile, frame=longest)


def _hide_metadata(data: bytearray, start: int, end: int) -> None:
    if data[start] in (2, 3):
        # Version and flags, an id of two or four bytes, protection, then the kind.
        kind = start + 4 + (2 if data[start] == 2 else 4) + 2
        if bytes(data[kind : kind + 4]) in _METADATA and kind + 4 <= end:
            data[kind : kind + 4] = b"none"


def _delays(body: bytes, scale: int) -> list[float]:
    """Seconds of each frame of a track. Each entry gives a number of frames and their duration."""
    delays: list[float] = []
    for at in range(8, len(body) - 7, 8):
        count, long = struct.unpack_from(">II", body, at)
        _check_count(len(delays) + count)
        delays += [long / scale] * count
    return delays


def _boxes(data: bytes, at: int, stop: int, *, depth: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of each box without inner boxes. Boxes with inner boxes are entered."""
    while at + 8 < stop and depth:
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        start, end = at + 8, at + size if size else stop
        if size == 1:
            start, end = at + 16, at + int.from_bytes(data[at + 8 : at + 16], "big")
        if end <= start or end > stop:
            return
        if name in _HOLDERS:
            own = _HOLDERS[name] + (2 if name == b"iinf" and data[start] else 0)
            yield from _boxes(data, start + own, end, depth=depth - 1)
        else:
            yield name, start, end
        at = end
