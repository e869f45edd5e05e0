import contextlib
import hashlib
import io
import random
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL")

import pillow_heif
from PIL import Image

from moderation.analysis import Box, Face, PictureFacts
from moderation.dfa.gpt.pixels import Picture, PixelLimits, crop_face, decode_picture
from moderation.errors import (
    ImageCorrupt,
    ImageRejected,
    ImageTooLarge,
    NotAnImage,
    TooManyPixels,
    UnsupportedFormat,
)

# pytest puts its own filters before ours: see the top of pixels.py.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"]


def a_gradient(width: int = 64, height: int = 48) -> Image.Image:
    """Red grows to the right, green grows downwards: every turn shows in the corners."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 250 // width, y * 250 // height, np.full_like(x, 90)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def an_animation(kind: str, frames: int = 12) -> bytes:
    pictures = [Image.fromarray(np.full((40, 50, 3), 20 * i, np.uint8)) for i in range(frames)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=100, loop=0)


def a_png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def a_picture(pixels: np.ndarray) -> Picture:
    height, width = pixels.shape[:2]
    return Picture(pixels, PictureFacts(sha256="", size=0, format="PNG", width=width, height=height))


def a_face(left: float, top: float, right: float, bottom: float) -> Face:
    return Face(Box(left, top, right, bottom), 1.0)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_kind_that_we_decode_gives_its_pixels_and_facts(kind: str) -> None:
    data = encoded(a_gradient(), kind)

    picture = decode_picture(data)

    assert picture.pixels.shape == (48, 64, 3)
    assert picture.pixels.dtype == np.uint8
    assert np.abs(picture.pixels.astype(int) - np.array(a_gradient())).mean() < 25
    assert picture.facts.format == kind
    assert (picture.facts.width, picture.facts.height) == (64, 48)
    assert picture.facts.size == len(data)
    assert picture.facts.sha256 == hashlib.sha256(data).hexdigest()
    assert picture.facts.frames == 1


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_keeps_its_pixels_to_the_bit(kind: str) -> None:
    picture = decode_picture(encoded(a_gradient(), kind))

    assert np.array_equal(picture.pixels, np.array(a_gradient()))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "AVIF", "TIFF"])
def test_a_turned_picture_is_seen_upright(kind: str, orientation: int) -> None:
    undo: dict[int, list[Image.Transpose]] = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = a_gradient()
    for turn in undo[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    tags = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}

    picture = decode_picture(encoded(stored, kind, **tags))

    assert (picture.facts.width, picture.facts.height) == (64, 48)
    assert np.abs(picture.pixels.astype(int) - np.array(a_gradient())).mean() < 5


def sixteen_bit() -> Image.Image:
    return Image.fromarray((np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16))


def half_transparent() -> Image.Image:
    image = Image.new("RGBA", (20, 20), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 10, 20))
    return image


@pytest.mark.parametrize(
    ("data", "notes", "left", "right"),
    [
        pytest.param(
            encoded(half_transparent()), ("flattened_alpha",), (255, 255, 255), (200, 0, 0), id="rgba"
        ),
        pytest.param(
            encoded(half_transparent(), "WEBP", lossless=True),
            ("flattened_alpha",),
            (255, 255, 255),
            (200, 0, 0),
            id="transparent-webp",
        ),
        pytest.param(
            encoded(half_transparent().convert("P")),
            ("palette", "flattened_alpha"),
            (255, 255, 255),
            (200, 0, 0),
            id="palette-with-transparency",
        ),
        pytest.param(
            encoded(half_transparent().convert("LA")),
            ("greyscale", "flattened_alpha"),
            (255, 255, 255),
            (60, 60, 60),
            id="grey-with-alpha",
        ),
        pytest.param(
            encoded(Image.new("RGB", (20, 20), (9, 8, 7)), transparency=(9, 8, 7)),
            ("flattened_alpha",),
            (255, 255, 255),
            (255, 255, 255),
            id="one-colour-is-transparent",
        ),
        pytest.param(
            encoded(Image.new("RGBA", (20, 20), (9, 8, 7, 255))), (), (9, 8, 7), (9, 8, 7), id="opaque-rgba"
        ),
        pytest.param(
            encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"),
            ("cmyk",),
            (254, 0, 0),
            (254, 0, 0),
            id="cmyk-jpeg-is-inverted",
        ),
        pytest.param(
            encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"),
            ("cmyk",),
            (255, 0, 0),
            (255, 0, 0),
            id="cmyk-tiff-is-not",
        ),
        pytest.param(encoded(Image.new("L", (20, 20), 77)), ("greyscale",), (77,) * 3, (77,) * 3, id="grey"),
        pytest.param(
            encoded(Image.new("1", (20, 20), 1)), ("greyscale",), (255,) * 3, (255,) * 3, id="bilevel"
        ),
        pytest.param(
            encoded(Image.new("I;16", (20, 20), 65_535 // 2)),
            ("sixteen_bit",),
            (127,) * 3,
            (127,) * 3,
            id="sixteen-bit-png",
        ),
        pytest.param(
            encoded(Image.new("I;16", (20, 20), 65_535), "TIFF"),
            ("sixteen_bit",),
            (255,) * 3,
            (255,) * 3,
            id="sixteen-bit-tiff",
        ),
        pytest.param(
            encoded(Image.new("I", (20, 20), 257 * 3), "TIFF"),
            ("sixteen_bit",),
            (3,) * 3,
            (3,) * 3,
            id="thirty-two-bits-that-hold-sixteen",
        ),
    ],
)
def test_every_colour_mode_becomes_rgb(
    data: bytes, notes: tuple[str, ...], left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    picture = decode_picture(data)

    assert picture.facts.notes == notes
    assert np.abs(picture.pixels[10, 2].astype(int) - left).max() <= 1
    assert np.abs(picture.pixels[10, 17].astype(int) - right).max() <= 1


@pytest.mark.parametrize(
    ("data", "refusal", "words"),
    [
        pytest.param(b"", NotAnImage, "empty", id="no-bytes"),
        pytest.param(b"hello, world", NotAnImage, "not an image", id="text"),
        pytest.param(b"\n <!DOCTYPE html><html>", NotAnImage, "web page", id="web-page-under-a-jpg-name"),
        pytest.param(b"%PDF-1.7", NotAnImage, "PDF", id="pdf"),
        pytest.param(b"PK\x03\x04zip", NotAnImage, "ZIP", id="zip"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", NotAnImage, "SVG", id="svg"),
        pytest.param(b"<?xml version='1.0'?><svg/>", NotAnImage, "XML", id="svg-with-a-declaration"),
        pytest.param(b'\xef\xbb\xbf{"error": 403}', NotAnImage, "JSON", id="an-error-reply"),
        pytest.param(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", NotAnImage, "video", id="mp4"),
        pytest.param(a_png_header(1, 1), NotAnImage, "too small", id="tracking-pixel"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", UnsupportedFormat, "HEIC", id="heic"),
        pytest.param(b"8BPS\0\1", UnsupportedFormat, "Photoshop", id="psd"),
        pytest.param(encoded(a_gradient(), "ICO"), UnsupportedFormat, "icon", id="icon"),
        pytest.param(encoded(a_gradient(), "JPEG2000"), UnsupportedFormat, "JPEG 2000", id="jpeg-2000"),
        pytest.param(
            encoded(Image.new("F", (20, 20)), "TIFF"), UnsupportedFormat, "fractions", id="floating-point"
        ),
        pytest.param(
            encoded(Image.new("I", (20, 20), 70_000), "TIFF"), UnsupportedFormat, "32 bits", id="wide-grey"
        ),
        pytest.param(b"\xff\xd8\xff\xe0", ImageCorrupt, "damaged", id="only-a-signature"),
        pytest.param(encoded(a_gradient(), "JPEG")[:-200], ImageCorrupt, "cut off", id="truncated-jpeg"),
        pytest.param(encoded(a_gradient())[:-80], ImageCorrupt, "PNG", id="truncated-png"),
        pytest.param(a_png_header(8_200, 8_200), TooManyPixels, "8,200 × 8,200", id="67-megapixels"),
        pytest.param(
            a_png_header(13_000, 13_000),
            TooManyPixels,
            "169,000,000.*67,108,864",
            id="where-pillow-only-warns",
        ),
        pytest.param(
            a_png_header(60_000, 60_000), TooManyPixels, "3,600,000,000.*67,108,864", id="where-pillow-raises"
        ),
    ],
)
def test_what_is_not_decoded_gets_its_code_and_a_sentence(
    data: bytes, refusal: type[ImageRejected], words: str
) -> None:
    with pytest.raises(ImageRejected, match=words) as caught:
        decode_picture(data)

    assert type(caught.value) is refusal
    assert str(caught.value).endswith(".")


def test_more_bytes_than_we_read_are_too_large() -> None:
    with pytest.raises(ImageTooLarge, match="1,001 bytes"):
        decode_picture(bytes(1_001), PixelLimits(max_bytes=1_000))


def test_a_bomb_is_refused_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("a pixel was decoded"))

    with pytest.raises(TooManyPixels):
        decode_picture(a_png_header(8_193, 8_192))


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    data = encoded(a_gradient(), "JPEG", progressive=True)

    assert decode_picture(data).facts.format == "JPEG"
    with pytest.raises(TooManyPixels, match="passes"):
        decode_picture(data, PixelLimits(max_scans=3))


def test_heic_that_is_asked_for_and_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)

    with pytest.raises(UnsupportedFormat, match="pillow-heif"):
        decode_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", PixelLimits(heic=True))


def test_heic_that_is_asked_for_is_decoded() -> None:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(a_gradient()).save(buffer)

    picture = decode_picture(buffer.getvalue(), PixelLimits(heic=True))

    assert picture.facts.format == "HEIC"
    assert np.abs(picture.pixels.astype(int) - np.array(a_gradient())).mean() < 5


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({"exif": b"Exif\0\0II*\0" + bytes(range(256)) * 100}, id="malformed-exif"),
        pytest.param({"exif": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 5_000}, id="endless-exif"),
        pytest.param({"icc_profile": b"not a profile" * 20_000}, id="huge-malformed-profile"),
        pytest.param({"comment": b"c" * 60_000}, id="long-comment"),
    ],
)
def test_metadata_never_spoils_a_picture(metadata: dict[str, bytes]) -> None:
    picture = decode_picture(encoded(a_gradient(), "JPEG", **metadata))

    assert picture.pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_of_even_pace_the_first_frame_is_analysed_and_the_others_are_counted(
    kind: str,
) -> None:
    picture = decode_picture(an_animation(kind))

    assert picture.facts.frames == 12
    assert picture.facts.frame == 0
    assert "animated" in picture.facts.notes
    assert picture.pixels.mean() < 3


def test_pages_are_counted_and_are_no_animation() -> None:
    picture = decode_picture(an_animation("TIFF"))

    assert (picture.facts.frames, picture.facts.notes) == (12, ("pages",))


def test_counting_pages_stops_at_the_limit() -> None:
    picture = decode_picture(an_animation("TIFF"), PixelLimits(max_frames=7))

    assert picture.facts.frames == 7


# --- damaged files ---


def outcome(data: bytes) -> str:
    """A code, or "decoded". Anything but a refusal escapes and fails the test."""
    try:
        picture = decode_picture(data)
    except ImageRejected as refusal:
        return refusal.code
    assert picture.pixels.shape == (picture.facts.height, picture.facts.width, 3)
    return "decoded"


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.jpg")), ids=lambda path: path.stem)
def test_a_sample_that_is_cut_anywhere_decodes_or_is_refused(sample: Path) -> None:
    data = sample.read_bytes()

    outcomes = {outcome(data[:length]) for length in range(0, len(data), max(len(data) // 30, 1))}

    assert outcomes <= {"decoded", "image_corrupt", "not_an_image"}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_of_every_kind_decodes_or_is_refused(kind: str) -> None:
    data = encoded(a_gradient(), kind)

    outcomes = {outcome(data[:length]) for length in range(0, len(data), max(len(data) // 100, 1))}

    assert "image_corrupt" in outcomes
    assert outcomes <= {"decoded", "image_corrupt", "not_an_image"}


def changed(data: bytes, chance: random.Random) -> bytes:
    """A few bytes overwritten, mostly in the header, and sometimes a piece removed or repeated."""
    content = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        reach = 120 if chance.random() < 0.7 else len(content)
        content[chance.randrange(min(reach, len(content)))] = chance.choice(
            [0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)]
        )
    if chance.random() < 0.3:
        start = chance.randrange(len(content))
        piece = content[start : start + chance.randint(1, 40)]
        content[start : start + len(piece)] = piece * chance.choice([0, 2, 5])
    return bytes(content)


@pytest.mark.parametrize("animated", [False, True], ids=["still", "animated"])
@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_is_wrong_with_a_file_only_a_refusal_escapes(kind: str, animated: bool) -> None:
    if animated and kind not in {"GIF", "PNG", "WEBP", "AVIF", "TIFF"}:
        pytest.skip("holds one frame")
    data = an_animation(kind, 4) if animated else encoded(a_gradient(), kind)
    chance = random.Random(f"{kind} {animated}")
    limits = PixelLimits(max_pixels=1_000_000)

    for _ in range(250):
        mutant = changed(data, chance)
        with contextlib.suppress(ImageRejected):
            decode_picture(mutant, limits)


# --- the crop ---


def test_a_crop_is_the_square_around_the_face_resampled_once() -> None:
    picture = a_picture(np.array(a_gradient(200, 160)))

    crop = crop_face(picture, a_face(90, 60, 110, 100), 50)

    # Centre (100, 80), side 1.3 × 40.
    expected = a_gradient(200, 160).resize((50, 50), Image.Resampling.BICUBIC, box=(74, 54, 126, 106))
    assert np.array_equal(crop, np.array(expected))


def test_the_part_outside_the_picture_mirrors_the_part_inside() -> None:
    chance = np.random.default_rng(0)
    picture = a_picture(chance.integers(0, 256, (60, 60, 3), dtype=np.uint8))

    crop = crop_face(picture, a_face(-20, 20, 20, 60), 40, margin=1.0)

    assert np.array_equal(crop[:, :20], crop[:, 20:][:, ::-1])


def test_a_crop_does_not_depend_on_what_lies_far_from_it() -> None:
    chance = np.random.default_rng(0)
    pixels = chance.integers(0, 256, (300, 300, 3), dtype=np.uint8)
    face = a_face(100.3, 90.7, 160.2, 170.9)

    whole = crop_face(a_picture(pixels), face, 64)
    shifted = crop_face(a_picture(pixels[20:, 30:]), a_face(70.3, 70.7, 130.2, 150.9), 64)

    assert np.abs(whole.astype(int) - shifted).max() <= 1


coordinates = st.floats(-120, 220, allow_nan=False, width=32)


@settings(max_examples=150, deadline=None)
@given(
    left=coordinates,
    top=coordinates,
    width=st.floats(0, 300, width=32),
    height=st.floats(0, 300, width=32),
    size=st.integers(1, 80),
    margin=st.floats(0.5, 3),
    sides=st.tuples(st.integers(1, 100), st.integers(1, 100)),
)
def test_any_box_gives_a_crop_of_the_asked_size_twice_the_same(
    left: float, top: float, width: float, height: float, size: int, margin: float, sides: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(1).integers(100, 151, (*sides, 3), dtype=np.uint8)
    face = a_face(left, top, left + width, top + height)

    crop = crop_face(a_picture(pixels), face, size, margin)

    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    # Nothing is filled with a colour that the picture does not have; bicubic overshoots a little.
    assert crop.min() >= 80
    assert crop.max() <= 171
    assert np.array_equal(crop, crop_face(a_picture(pixels), face, size, margin))


def test_many_threads_decode_and_crop_the_same_pixels() -> None:
    data = (SAMPLES / "portrait-1.jpg").read_bytes()

    def work(_: int) -> bytes:
        return crop_face(decode_picture(data), a_face(60, 60, 240, 300), 112).tobytes()

    with ThreadPoolExecutor(8) as pool:
        crops = set(pool.map(work, range(32)))

    assert len(crops) == 1


def test_heic_without_a_picture_in_it_is_corrupt() -> None:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(a_gradient()).save(buffer)
    # Without the settings of its decoder the one item is no picture, and the library lists none.
    data = buffer.getvalue().replace(b"hvcC", b"free")

    with pytest.raises(ImageCorrupt):
        decode_picture(data, PixelLimits(heic=True))
