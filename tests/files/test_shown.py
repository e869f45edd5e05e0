"""What decoding follows of a file, without a browser beside it: the cases that were judged otherwise than they look."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from moderation.dfa.gpt.colours import MOST_BYTES
from moderation.dfa.gpt.pixels import PixelLimits, decode_picture
from moderation.errors import TooManyPixels
from tests.files import animated, burdened, turned
from tests.files.profiled import BROKEN, PROFILES

# pytest puts its own filters before ours: see the top of pixels.py.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

TURNED = dict(turned.files())
ANIMATED = dict(animated.files())
TIMED = dict(animated.timed())


@pytest.mark.parametrize(
    "name",
    [
        "jpeg, xmp alone",
        "jpeg, xmp that is only words",
        "jpeg, exif 6 as LONG",
        "jpeg, exif in two segments",
        "png, xmp alone",
        "png, eXIf after the pixels",
        "png, raw profile exif",
        "webp, EXIF 6",
        "avif, exif 6 and no irot",
        "avif, xmp alone",
        "gif, xmp alone",
    ],
)
def test_a_picture_that_browsers_do_not_turn_is_not_turned(name: str) -> None:
    picture = decode_picture(TURNED[name])

    assert turned.position(picture.pixels) == 1
    assert "rotated" not in picture.facts.notes


@pytest.mark.parametrize(
    "name", ["jpeg, exif 6", "jpeg, exif with another padding", "png, eXIf 6", "avif, irot and imir 6"]
)
def test_a_picture_that_browsers_turn_is_turned(name: str) -> None:
    picture = decode_picture(TURNED[name])

    assert turned.position(picture.pixels) == 6
    assert "rotated" in picture.facts.notes


def test_xmp_turns_no_tiff() -> None:
    buffer = io.BytesIO()
    turned.stored().save(buffer, "TIFF", tiffinfo={700: turned.xmp(6)})

    assert turned.position(decode_picture(buffer.getvalue()).pixels) == 1


def test_the_cover_that_no_browser_shows_is_not_judged() -> None:
    picture = decode_picture(ANIMATED["apng, hidden cover, two frames"])

    assert (picture.pixels == animated.GREEN).all()
    assert (picture.facts.frames, picture.facts.frame) == (2, 0)


def test_a_frame_lies_on_a_white_page_where_it_is_shown() -> None:
    pixels = decode_picture(ANIMATED["apng, frame smaller than the canvas"]).pixels

    expected = np.full((turned.HEIGHT, turned.WIDTH, 3), 255)
    expected[6:14, 5:15] = animated.GREEN
    assert (pixels == expected).all()


def test_a_canvas_of_too_many_pixels_is_refused_however_small_its_frame_is() -> None:
    data = ANIMATED["apng, frame smaller than the canvas"]
    huge = data.replace(animated.HEADER, animated.header(60_000, 60_000))

    with pytest.raises(TooManyPixels):
        decode_picture(huge)


@pytest.mark.parametrize("kind", ["gif", "apng", "webp", "avif"])
def test_a_cover_that_nobody_has_time_to_see_is_not_judged(kind: str) -> None:
    picture = decode_picture(TIMED[f"{kind}, a cover that nobody has time to see"])

    assert (picture.facts.frames, picture.facts.frame) == (2, 1)
    assert np.abs(picture.pixels.astype(int) - animated.GREEN).max() < 5


def test_of_an_animation_of_very_many_frames_no_frame_is_chosen() -> None:
    frames = [animated.Frame(animated.RED, 100)]
    one = animated.gif(frames, 0)
    block = one[one.index(b"\x21\xf9") : -1]

    assert decode_picture(one[:-1] + block * 9_999 + b";").facts.frames == 10_000
    with pytest.raises(TooManyPixels, match="10,000 frames"):
        decode_picture(one[:-1] + block * 10_000 + b";")


def test_a_frame_that_comes_after_too_many_pixels_is_refused() -> None:
    data = TIMED["gif, a cover that nobody has time to see"]

    with pytest.raises(TooManyPixels, match="seen longest"):
        decode_picture(data, PixelLimits(max_frame_pixels=2 * turned.WIDTH * turned.HEIGHT - 1))


def test_scans_are_counted_where_they_are_scans() -> None:
    buffer = io.BytesIO()
    turned.stored().save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()

    assert decode_picture(data + burdened.MANY_SCANS).facts.format == "JPEG"
    with pytest.raises(TooManyPixels, match="passes"):
        decode_picture(data[:-2] + burdened.MANY_SCANS + data[-2:])
    with pytest.raises(TooManyPixels, match="passes"):
        decode_picture(data, PixelLimits(max_scans=3))


def test_what_a_jpeg_holds_beside_its_first_view_is_counted() -> None:
    views = dict(burdened.files())["jpeg, several views"]
    layered = views.replace(
        turned.jpeg()[:2], turned.jpeg()[:2] + turned.segment(0xE1, b' hdrgm:Version="1.0"'), 1
    )

    assert decode_picture(views).facts.notes == ("several_views",)
    assert decode_picture(layered).facts.frames == 1


def test_every_file_that_is_fine_decodes() -> None:
    for name, data in burdened.files():
        assert Image.fromarray(decode_picture(data).pixels).size == (turned.WIDTH, turned.HEIGHT), name


def with_profile(image: Image.Image, kind: str, made: bytes) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=made)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_colours_are_those_that_a_profile_means(kind: str) -> None:
    red = Image.new("RGB", (20, 20), (250, 10, 10))

    picture = decode_picture(with_profile(red, kind, PROFILES["colours that are exchanged"]))

    assert picture.pixels[0, 0].tolist() == [10, 250, 10]
    assert picture.facts.notes == ("colour_profile",)


def test_of_what_says_that_it_is_srgb_the_pixels_are_the_stored_ones() -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 40, 3), np.uint8))

    for made in (PROFILES["sRGB"], ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        picture = decode_picture(with_profile(noise, "PNG", made))
        np.testing.assert_array_equal(picture.pixels, np.array(noise))
        assert picture.facts.notes == ()


def test_a_profile_that_is_broken_or_larger_than_any_is_not_applied() -> None:
    red = Image.new("RGB", (20, 20), (250, 10, 10))
    huge = PROFILES["colours that are exchanged"] + bytes(MOST_BYTES)

    for made in (*BROKEN.values(), huge):
        assert decode_picture(with_profile(red, "TIFF", made)).pixels[0, 0].tolist() == [250, 10, 10]
