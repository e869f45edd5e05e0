"""Bytes to upright RGB pixels, and the one face crop of the project. No model and no store is known here.

A file from outside may be hostile: its kind must be on an allow-list, sizes are read from headers before any pixel is
decoded, and every error of Pillow's parsers becomes an `ImageRejected`.

A thread cannot be stopped, so there is no time limit here: bytes, pixels, scans and frames are limited instead. A
worker decodes in child processes that can be killed (`worker.decoding`), with limits of seconds and memory.

Colours are those that people see: a file's colour profile is applied where browsers apply it (`colours`). Files without
a profile, or with an sRGB one, keep their stored pixels, as in every training set we know.
"""

import hashlib
import io
import itertools
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from moderation.analysis import Face, PictureFacts, Point
from moderation.dfa.gpt.colours import in_srgb
from moderation.dfa.gpt.shown import Disposal, Layer, Shown, as_shown
from moderation.errors import (
    ImageCorrupt,
    ImageTooLarge,
    NotAnImage,
    TooManyPixels,
    UnsupportedFormat,
)

#: Part of every fingerprint. Raise it when the same bytes can give other pixels or another crop.
PREPROCESSING_VERSION: int = 3

#: The decoded formats, by Pillow's names. A JPEG may be an MPO: several pictures in one file, as many phones write.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP")

# Pillow's second line of defence raises instead of printing. Its other warnings are about metadata that we do not read.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.simplefilter("error", Image.DecompressionBombWarning)
# Its debug lines quote the metadata of pictures, and its errors repeat our refusals.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class PixelLimits:
    """Limits of the work for one picture. Beyond them it is refused, or less of it is read."""

    #: Bytes of the file as sent.
    max_bytes: int = 32 * 2**20
    #: Pixels of one frame: 201 MB once decoded. Phones write 8,192 × 6,144, or at most 9,280 × 6,944.
    max_pixels: int = 2**26
    #: Shorter side in pixels. A smaller file is a spacer or a tracker and shows no face.
    min_side: int = 8
    #: Passes over the pixels of one JPEG. Cameras and web encoders write 1 to 10.
    max_scans: int = 100
    #: Most pages of a TIFF that are counted. Only the first is decoded.
    max_frames: int = 1_000
    #: Pixels of all frames of an animation, up to the one seen longest.
    max_frame_pixels: int = 2**27
    #: Decode HEIC, by pillow-heif if it is installed. Off: libheif has a long record of faults.
    heic: bool = False


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture, and facts about its bytes."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB
    facts: PictureFacts
    #: Facts gathered besides the pixels (`moderation.evidence`), to be recorded. Not read here. None: not gathered.
    evidence: object = None
    #: Pictures of it for people, likewise.
    renditions: object = None


def decode_picture(data: bytes, limits: PixelLimits = PixelLimits()) -> Picture:
    """Decode a file as a browser shows it: upright, in RGB, transparent parts on white.

    An animation gives the frame that is seen longest.

    Safe in many threads. Raises `NotAnImage`, `ImageCorrupt`, `UnsupportedFormat`, `TooManyPixels` or `ImageTooLarge`
    with a sentence for the reviewer.
    """
    kind = _kind_within(data, limits)
    shown = as_shown(data, kind, max_scans=limits.max_scans)
    image = _opened(shown, kind, limits)
    facts = _facts(data, image, shown, limits)
    return _picture(image, facts, shown)


#: Side of a face's crop over the longer side of its box, as in DeepfakeBench (arXiv 2307.01426).
MARGIN = 1.3


def crop_face(
    picture: Picture, face: Face, size: int, margin: float = MARGIN, *, upright: bool = False
) -> np.ndarray:
    """The face as a square of `size` pixels, (size, size, 3) uint8: the crop that every model here sees.

    The square is centred on the box; its side is `margin` times the box's longer side. Outside the picture it is filled
    by reflection, which continues the picture's grain and compression. Repeated edge pixels would draw streaks and a
    flat border a line, and a model can learn both as artifacts. Resampled once, bicubic with antialiasing; the same
    input gives the same bytes.

    `upright` rotates a face that lies on its side or is upside down, by its landmarks. A face tilted by at most
    `TILTED` degrees is unchanged, to the byte.
    """
    quarters, rest = _turn(face) if upright else (0, 0.0)
    if not rest:
        return np.ascontiguousarray(np.rot90(_straight(picture, face, size, margin), quarters))
    # Twice as fine, and as wide as the diagonal, so that the rotated corners hold picture too.
    wide = Image.fromarray(_straight(picture, face, 3 * size, 1.5 * margin))
    turned = wide.rotate(rest, Image.Resampling.BICUBIC)
    inner = (0.5 * size, 0.5 * size, 2.5 * size, 2.5 * size)
    upright_crop = turned.resize((size, size), Image.Resampling.BICUBIC, box=inner)
    return np.rot90(np.array(upright_crop), quarters).copy()


def in_crop(face: Face, size: int, points: Iterable[Point], margin: float = MARGIN) -> list[Point]:
    """Map points of the picture into the face's upright crop of `size` pixels."""
    turn, side, middle = _placed(face, margin)
    scale, half, (cosine, sine) = size / side, size / 2, (turn.real, turn.imag)
    away = [(x - middle.x, y - middle.y) for x, y in points]
    return [
        Point(half + scale * (cosine * dx + sine * dy), half + scale * (cosine * dy - sine * dx))
        for dx, dy in away
    ]


def crop_corners(face: Face, margin: float = MARGIN) -> tuple[Point, Point, Point, Point]:
    """The corners of the face's upright crop in the picture: top left, top right, bottom right, bottom left."""
    turn, side, middle = _placed(face, margin)
    half = side / 2

    def corner(dx: float, dy: float) -> Point:
        return Point(
            middle.x + half * (turn.real * dx - turn.imag * dy),
            middle.y + half * (turn.real * dy + turn.imag * dx),
        )

    return corner(-1, -1), corner(1, -1), corner(1, 1), corner(-1, 1)


def _placed(face: Face, margin: float) -> tuple[complex, float, Point]:
    """The place of an upright crop in its picture: its rotation as a complex number of length 1, side and middle."""
    quarters, rest = _turn(face)
    radians = math.radians(90 * quarters + rest)
    side = max(margin * max(face.box.width, face.box.height), 1.0)
    middle = Point((face.box.left + face.box.right) / 2, (face.box.top + face.box.bottom) / 2)
    return complex(math.cos(radians), math.sin(radians)), side, middle


#: Degrees by which a head may be tilted before its crop is rotated. Every training set has tilted heads; beyond this
#: angle, scores of bona fide faces begin to rise.
TILTED = 15


def _turn(face: Face) -> tuple[int, float]:
    """Quarter turns, then degrees, to rotate the face upright, counter-clockwise."""
    if face.landmarks is None:
        return 0, 0.0
    degrees = roll(face.landmarks)
    quarters = round(degrees / 90)
    rest = degrees - 90 * quarters
    return quarters % 4, rest if abs(rest) > TILTED else 0.0


def roll(landmarks: Sequence[Point]) -> float:
    """Degrees by which a face is rotated clockwise in its picture, in [-180, 180]."""
    left, right, _, mouth_left, mouth_right = landmarks
    down_x = (mouth_left.x + mouth_right.x - left.x - right.x) / 2
    down_y = (mouth_left.y + mouth_right.y - left.y - right.y) / 2
    # The line of the eyes plus the line from them to the mouth, rotated by 90°: the longer one has more weight.
    return math.degrees(math.atan2(right.y - left.y - down_x, right.x - left.x + down_y))


def _straight(picture: Picture, face: Face, size: int, margin: float) -> np.ndarray:
    side = max(margin * max(face.box.width, face.box.height), 1.0)
    left = (face.box.left + face.box.right - side) / 2
    top = (face.box.top + face.box.bottom - side) / 2
    # The filter reads this many pixels beyond the square on each side.
    reach = math.ceil(2 * max(side / size, 1.0)) + 1
    x0, y0 = math.floor(left) - reach, math.floor(top) - reach
    x1, y1 = math.ceil(left + side) + reach, math.ceil(top + side) + reach
    height, width = picture.pixels.shape[:2]
    region = picture.pixels[np.ix_(_reflected(y0, y1, height), _reflected(x0, x1, width))]
    box = (left - x0, top - y0, left - x0 + side, top - y0 + side)
    return np.array(Image.fromarray(region).resize((size, size), Image.Resampling.BICUBIC, box=box))


def _reflected(start: int, stop: int, length: int) -> np.ndarray:
    """Indices start … stop − 1 on a line of `length` pixels, reflected at both ends."""
    folded = np.arange(start, stop) % (2 * length)
    return np.where(folded < length, folded, 2 * length - 1 - folded)


# --- opening: no pixel is decoded yet ---


def _kind_within(data: bytes, limits: PixelLimits) -> str:
    """The file's format: one of `FORMATS`, or HEIC if `limits` allow it. Raise for all others."""
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"The file has {len(data):,} bytes; at most {limits.max_bytes:,} are read.")
    kind = _kind(data)
    if kind == "HEIC" and not limits.heic:
        raise UnsupportedFormat("HEIC pictures are not decoded here unless the installation asks for them.")
    return kind


def _opened(shown: Shown, kind: str, limits: PixelLimits) -> Image.Image:
    """Read the file's header and check every limit."""
    if shown.layers:
        _check_size(shown.canvas, limits)
    if kind == "HEIC":
        image = _opened_heic(shown.data, limits)
    else:
        image = _opened_by_pillow(shown.data, kind, at_most=limits.max_pixels)
    _check_size(image.size, limits)
    _check_frames(image, shown, limits)
    return image


def _check_frames(image: Image.Image, shown: Shown, limits: PixelLimits) -> None:
    """Raise TooManyPixels when too many frames must be drawn before the one seen longest."""
    drawn = sum(layer.width * layer.height for layer in shown.layers)
    if not shown.layers:
        drawn = (shown.frame + 1) * image.width * image.height
    if shown.frame and drawn > limits.max_frame_pixels:
        raise TooManyPixels("The frame of the animation that is seen longest comes after too many others.")


def _opened_by_pillow(data: bytes, kind: str, *, at_most: int = PixelLimits.max_pixels) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TooManyPixels(_bomb_in_words(str(error), at_most)) from error
    except Exception as error:  # a plugin raises any error of its parser
        raise ImageCorrupt(f"The {kind} file is damaged: its header cannot be read.") from error
    # Pillow would take a TIFF's orientation from its XMP. No browser does.
    image.info.pop("xmp", None)
    return image


def _bomb_in_words(said: str, at_most: int) -> str:
    """Pillow's refusal with its number of pixels. Pillow refuses beyond a limit of its own, whatever ours is."""
    found = re.search(r"\((\d+) pixels\)", said)
    number = "too many" if found is None else f"{int(found[1]):,}"
    at_most = min(at_most, Image.MAX_IMAGE_PIXELS or at_most)
    return f"The picture has {number} pixels; at most {at_most:,} are decoded."


def _opened_heic(data: bytes, limits: PixelLimits) -> Image.Image:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnsupportedFormat("HEIC pictures need the package pillow-heif, which is missing.") from error
    try:
        heif: Any = pillow_heif.open_heif(io.BytesIO(data))
        _ = heif.size  # fails for a file that names no picture
    except Exception as error:  # libheif raises many classes
        raise ImageCorrupt("The HEIC file is damaged: its header cannot be read.") from error
    _check_size(heif.size, limits)
    try:
        image = heif.to_pillow()
    except Exception as error:  # as above
        raise ImageCorrupt("The HEIC file is damaged or cut off.") from error
    image.format = "HEIC"
    return image


def _check_size(size: tuple[int, int], limits: PixelLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"The picture is {width:,} × {height:,} pixels; at most {limits.max_pixels:,} are decoded."
        )
    if min(width, height) < limits.min_side:
        raise NotAnImage(f"The picture is {width} × {height} pixels: too small to show anything.")


#: First bytes of the files that we decode.
SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"BM", "BMP"),
)

#: First bytes of pictures that we know but do not decode.
UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"icns", "an icon file"),
    (b"%!PS", "a PostScript file"),
    (b"DDS ", "a texture file"),
    (b"qoif", "a QOI picture"),
    (b"v/1\x01", "an OpenEXR picture"),
)

#: First bytes of other files that are sent to us as pictures.
OTHER_THINGS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\x1f\x8b", "a compressed file"),
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML document or a drawing"),
    (b"{", "a JSON document"),
    (b"\x1a\x45\xdf\xa3", "a video"),
    (b"RIFF", "a sound or a video"),
)

HEIC_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)
AVIF_BRANDS = frozenset((b"avif", b"avis"))


def _kind(data: bytes) -> str:
    """The format that the first bytes announce: one of `FORMATS`, or HEIC."""
    if not data:
        raise NotAnImage("The file is empty.")
    if data[4:8] == b"ftyp":
        return _kind_in_boxes(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    for signature, kind in SIGNATURES:
        if data.startswith(signature):
            return kind
    for signature, words in UNSUPPORTED:
        if data.startswith(signature):
            raise UnsupportedFormat(f"The file is {words}, a kind that is not decoded here.")
    start = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for signature, words in OTHER_THINGS:
        if start.startswith(signature.lower()):
            raise NotAnImage(f"The file is {words}, not an image.")
    raise NotAnImage("The file is not an image of any kind that we know.")


def _kind_in_boxes(data: bytes) -> str:
    """The format of an ISO 14496-12 container. The brands in its first box tell AVIF, HEIC and MP4 apart."""
    end = min(max(int.from_bytes(data[:4], "big"), 16), 256)
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, end, 4)}
    if brands & AVIF_BRANDS:
        return "AVIF"
    if brands & HEIC_BRANDS:
        return "HEIC"
    raise NotAnImage("The file is a video, not an image.")


# --- facts ---


def _facts(data: bytes, image: Image.Image, shown: Shown, limits: PixelLimits) -> PictureFacts:
    """The facts in the header. Width, height and notes are completed once the pixels are upright."""
    frames = _frame_count(image, limits) if shown.frames is None else shown.frames
    return PictureFacts(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        format=image.format or "unknown",
        width=image.width,
        height=image.height,
        frames=frames,
        frame=shown.frame,
        notes=(_MANY.get(image.format or "", "animated"),) if frames > 1 else (),
    )


#: The meaning of several frames in these formats. In all others they are an animation.
_MANY = {"TIFF": "pages", "MPO": "several_views"}


def _frame_count(image: Image.Image, limits: PixelLimits) -> int:
    """The number of frames. Counted up to `max_frames` when the header does not give it."""
    if image.format == "TIFF":
        return max(sum(1 for _ in itertools.islice(_tiff_pages(image), limits.max_frames)), 1)
    return max(int(getattr(image, "n_frames", 1)), 1)


def _tiff_pages(image: Image.Image) -> Iterator[None]:
    """One item per page. Only directories are read, and the image ends at its first page."""
    try:
        page = 0
        while True:
            image.seek(page)
            page += 1
            yield
    except Exception:  # noqa: BLE001  the first page may be intact although a later directory is not
        return
    finally:
        image.seek(0)


# --- pixels ---


def _picture(image: Image.Image, facts: PictureFacts, shown: Shown) -> Picture:
    """One frame as a picture: load it, rotate it upright, convert it to RGB."""
    loaded = _drawn(shown, facts) if shown.layers else _loaded(image, facts)
    upright, turned = _upright(loaded, shown)
    rgb, converted = _seen(upright, _profile(image, facts.format, shown))
    pixels = np.array(rgb)  # (H, W, 3)
    notes = (*facts.notes, *turned, *converted)
    return Picture(pixels, replace(facts, width=rgb.width, height=rgb.height, notes=notes))


def _loaded(image: Image.Image, facts: PictureFacts) -> Image.Image:
    """The chosen frame, decoded."""
    try:
        if facts.frame:
            image.seek(facts.frame)
        image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TooManyPixels("A frame of the picture has more pixels than are decoded.") from error
    except Exception as error:  # a plugin raises any error of its parser
        raise ImageCorrupt(f"The {facts.format} file is damaged or cut off.") from error
    return image


def _drawn(shown: Shown, facts: PictureFacts) -> Image.Image:
    """An animation's canvas after its last layer is drawn."""
    canvas = Image.new("RGBA", shown.canvas)
    *earlier, last = shown.layers
    for layer in earlier:
        place = (layer.left, layer.top, layer.left + layer.width, layer.top + layer.height)
        before = canvas.crop(place) if layer.disposal is Disposal.RESTORE else None
        _draw(canvas, layer, facts)
        if before is not None:
            canvas.paste(before, (layer.left, layer.top))
        elif layer.disposal is Disposal.CLEAR:
            canvas.paste((0, 0, 0, 0), place)
    _draw(canvas, last, facts)
    return canvas


def _draw(canvas: Image.Image, layer: Layer, facts: PictureFacts) -> None:
    frame = _with_alpha(_loaded(_opened_layer(layer, facts), replace(facts, frame=0)))
    if layer.over:
        canvas.alpha_composite(frame, (layer.left, layer.top))
    else:
        canvas.paste(frame, (layer.left, layer.top))


def _with_alpha(frame: Image.Image) -> Image.Image:
    if frame.mode.startswith("I;16"):
        return _from_sixteen_bit(np.array(frame)).convert("RGBA")
    return frame.convert("RGBA")


def _opened_layer(layer: Layer, facts: PictureFacts) -> Image.Image:
    frame = _opened_by_pillow(layer.data, facts.format)
    if frame.size != (layer.width, layer.height):
        raise ImageCorrupt(f"The {facts.format} file is damaged: a frame has another size than it says.")
    return frame


#: How to transpose stored pixels to upright ones, by EXIF tag 0x0112 (EXIF 2.32, 4.6.4).
TURNS: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image, shown: Shown) -> tuple[Image.Image, tuple[str, ...]]:
    """The upright picture, and a note when it was rotated."""
    # For an AVIF, Pillow reports the rotation of its boxes (its metadata are removed). Pillow rotates a TIFF while
    # loading it, and libheif a HEIC.
    orientation = image.getexif().get(0x0112) if image.format == "AVIF" else shown.orientation
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return (image, ()) if turn is None else (image.transpose(turn), ("rotated",))


#: Formats whose colour profile the decoder finds. For all others `shown` finds it.
_PROFILED = frozenset(("AVIF", "TIFF", "HEIC"))


def _profile(image: Image.Image, kind: str, shown: Shown) -> bytes | None:
    """The picture's colour profile. None: its stored colours are the ones people see."""
    found = image.info.get("icc_profile") if kind in _PROFILED else None
    return found or shown.profile


def _seen(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in sRGB, and notes about the conversion."""
    if profile is None:
        return _rgb(image)
    deep = image.mode.startswith("I;16")
    grey = _from_sixteen_bit(np.array(image)).getchannel("R") if deep else image
    coloured = in_srgb(grey, profile)
    if coloured is None:
        return _rgb(image)
    rgb, notes = _rgb(coloured)
    was = "sixteen_bit" if deep else _STORED_AS.get(image.mode)
    return rgb, (*((was,) if was else ()), "colour_profile", *notes)


#: Notes about the modes of stored pixels. None: as usual.
_STORED_AS = {
    **dict.fromkeys(("RGB", "RGBA", "RGBa")),
    **dict.fromkeys(("1", "L", "LA", "La"), "greyscale"),
    **dict.fromkeys(("P", "PA"), "palette"),
    "CMYK": "cmyk",
}


def _rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture in RGB, and notes about the conversion."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image, ()
    if image.mode.startswith("I;16"):
        return _from_sixteen_bit(np.array(image)), ("sixteen_bit",)
    if image.mode in {"I", "F"}:
        return _from_wide(image)
    note = _STORED_AS.get(image.mode, "converted")
    try:
        # Without a fitting profile, CMYK is converted as browsers do. Pillow undid YCCK and Adobe's inversion.
        plain = note in {"cmyk", "converted"}
        rgb, flattened = (image.convert("RGB"), ()) if plain else _on_white(image)
    except ValueError as error:
        raise UnsupportedFormat(f"Pictures in the colour mode {image.mode} are not decoded here.") from error
    return rgb, flattened if note is None else (note, *flattened)


def _from_sixteen_bit(values: np.ndarray) -> Image.Image:
    """(H, W) in 0 … 65535 -> RGB, rounded."""
    grey = (values.astype(np.uint32) * 255 + 32_767) // 65_535
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _from_wide(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A 32-bit grey picture whose values fit 16 bits. Refuse others: the file does not say which value is white."""
    values = np.array(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise UnsupportedFormat("Pictures with 32 bits or fractions per pixel are not decoded here.")
    return _from_sixteen_bit(values), ("sixteen_bit",)


def _on_white(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture on white, as a page would show it, and a note if it shows through. Opaque ones keep their pixels."""
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    if layered.getchannel("A").getextrema()[0] == 255:
        return layered.convert("RGB"), ()
    page = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(page, layered).convert("RGB"), ("flattened_alpha",)
