import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from PIL import Image, ImageFilter

from moderation.analysis import Abstain, Box, Face, PictureFacts, Region
from moderation.dfa.gpt import mtcnn
from moderation.dfa.gpt.faces import find_faces, unjudgeable
from moderation.dfa.gpt.pixels import Picture, crop_face, decode_picture, roll
from moderation.dfa.gpt.regions import outline
from moderation.errors import BundleMismatch

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"
PORTRAITS = sorted(SAMPLES.glob("portrait-*.jpg"))
WITH_A_FACE = [*PORTRAITS, *sorted(SAMPLES.glob("forged-*.jpg"))]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in a worker, where many pictures are searched at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_portrait(number: int = 1) -> Picture:
    return decode_picture((SAMPLES / f"portrait-{number}.jpg").read_bytes())


def a_picture(image: Image.Image) -> Picture:
    facts = PictureFacts(sha256="", size=0, format="PNG", width=image.width, height=image.height)
    return Picture(np.array(image), facts)


def resized(picture: Picture, by: float) -> Image.Image:
    image = Image.fromarray(picture.pixels)
    return image.resize((round(image.width * by), round(image.height * by)), Image.Resampling.BICUBIC)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(width, 0) * max(height, 0)
    return shared / (one.width * one.height + other.width * other.height - shared)


@pytest.mark.parametrize("sample", WITH_A_FACE, ids=lambda path: path.stem)
def test_the_one_face_of_every_sample_is_found_with_its_landmarks(sample: Path) -> None:
    picture = decode_picture(sample.read_bytes())

    (face,) = find_faces(picture)

    assert face.confidence > 0.95
    assert 0.2 < face.box.width / picture.facts.width < 0.7
    assert face.landmarks is not None
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert all(
        face.box.left < x < face.box.right and face.box.top < y < face.box.bottom for x, y in face.landmarks
    )
    assert left_eye.x < nose.x < right_eye.x
    assert left_mouth.x < nose.x < right_mouth.x
    assert max(left_eye.y, right_eye.y) < nose.y < min(left_mouth.y, right_mouth.y)


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(decode_picture((SAMPLES / "no-face.jpg").read_bytes()), id="a-landscape"),
        pytest.param(a_picture(Image.new("RGB", (300, 300), "white")), id="nothing"),
        pytest.param(a_picture(Image.new("RGB", (1, 1))), id="one-pixel"),
        pytest.param(a_picture(Image.new("RGB", (4_000, 3), "red")), id="a-line"),
        pytest.param(a_picture(Image.effect_noise((400, 300), 90).convert("RGB")), id="noise"),
    ],
)
def test_where_nobody_is_no_face_is_found(picture: Picture) -> None:
    assert find_faces(picture) == []


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_face_that_fills_the_frame_is_found(number: int) -> None:
    portrait = a_portrait(number)
    (face,) = find_faces(portrait)

    tight = a_picture(Image.fromarray(crop_face(portrait, face, 224, margin=0.9)))

    (again,) = find_faces(tight)
    assert min(again.box.width, again.box.height) > 120


@pytest.mark.parametrize(
    "by",
    [pytest.param(0.25, id="small"), pytest.param(2.0, id="large"), pytest.param(7.0, id="photo-of-2800-px")],
)
def test_the_same_face_is_found_at_every_size(by: float) -> None:
    portrait = a_portrait()
    (face,) = find_faces(portrait)

    (again,) = find_faces(a_picture(resized(portrait, by)))

    assert overlap(Box(*(edge / by for edge in again.box)), face.box) > 0.75


def test_a_face_that_the_frame_cuts_is_found() -> None:
    portrait = a_portrait()
    (face,) = find_faces(portrait)

    cut = Picture(portrait.pixels[:, int(face.box.left + face.box.width * 0.2) :], portrait.facts)

    assert len(find_faces(cut)) == 1


def test_a_dim_and_flat_picture_gets_a_second_look() -> None:
    portrait = a_portrait()
    (face,) = find_faces(portrait)
    tight = crop_face(portrait, face, 224, margin=0.9)

    flat = a_picture(Image.fromarray((90 + tight // 25).astype(np.uint8)))

    assert len(find_faces(flat)) == 1


def test_faces_come_largest_first_and_no_more_than_asked_for() -> None:
    page = Image.new("RGB", (900, 420), "gray")
    page.paste(resized(a_portrait(2), 0.5), (0, 0))
    page.paste(resized(a_portrait(1), 1.0), (200, 0))
    page.paste(resized(a_portrait(3), 0.7), (600, 0))

    faces = find_faces(a_picture(page))

    assert [round(face.box.left) // 200 for face in faces] == [1, 3, 0]
    assert find_faces(a_picture(page), at_most=2) == faces[:2]


def test_many_threads_find_the_same_faces() -> None:
    pictures = [decode_picture(path.read_bytes()) for path in WITH_A_FACE]
    alone = [find_faces(picture) for picture in pictures]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(find_faces, pictures * 4))

    assert together == alone * 4


@pytest.mark.parametrize(
    ("face_side", "blur", "reason"),
    [
        pytest.param(200, 0.0, None, id="as-it-is"),
        pytest.param(60, 0.0, None, id="small-and-sharp"),
        pytest.param(200, 0.02, None, id="soft-but-to-be-judged"),
        pytest.param(60, 0.02, None, id="small-and-soft"),
        pytest.param(30, 0.0, Abstain.FACE_TOO_SMALL, id="too-small"),
        pytest.param(200, 0.08, Abstain.TOO_BLURRED, id="nothing-but-blur"),
        pytest.param(60, 0.08, Abstain.TOO_BLURRED, id="small-and-nothing-but-blur"),
        pytest.param(30, 0.08, Abstain.FACE_TOO_SMALL, id="size-is-named-first"),
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_face_that_nobody_could_judge_says_why(
    number: int, face_side: int, blur: float, reason: Abstain | None
) -> None:
    portrait = a_portrait(number)
    (face,) = find_faces(portrait)
    by = face_side / min(face.box.width, face.box.height)
    image = resized(portrait, by).filter(ImageFilter.GaussianBlur(blur * face_side))
    moved = Face(Box(*(edge * by for edge in face.box)), face.confidence)

    assert unjudgeable(a_picture(image), moved) is reason


def test_a_dark_picture_is_not_called_blurred() -> None:
    portrait = a_portrait()
    (face,) = find_faces(portrait)

    dark = replace(portrait, pixels=portrait.pixels // 6)

    assert unjudgeable(dark, face) is None


def test_only_the_weights_of_the_package_are_used() -> None:
    mtcnn.nets()

    assert "mtcnn" not in sys.modules
    assert "tensorflow" not in sys.modules


def test_the_nets_are_loaded_once() -> None:
    assert mtcnn.nets() is mtcnn.nets()


def test_other_weights_are_refused_before_they_are_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mtcnn.WEIGHTS, "rnet", "0" * 64)
    monkeypatch.setattr(mtcnn.joblib, "load", lambda _: pytest.fail("it was unpickled"))

    with pytest.raises(BundleMismatch, match=r"rnet\.lz4"):
        mtcnn._arrays("rnet")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtcnn.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(BundleMismatch, match="mtcnn"):
        mtcnn._arrays("pnet")


# --- faces that do not stand upright


def turned(picture: Picture, degrees: int) -> Picture:
    """Clockwise, with the corners filled by what lies at the edges."""
    reach = max(picture.pixels.shape) // 3
    wide = Image.fromarray(np.pad(picture.pixels, ((reach, reach), (reach, reach), (0, 0)), mode="edge"))
    return a_picture(wide.rotate(-degrees, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("degrees", [30, 45, 90, 135, 180, 200, 270])
@pytest.mark.parametrize("sample", ["portrait-1", "portrait-2", "forged-swap-2"])
def test_a_face_is_found_at_any_roll_and_its_crop_stands_upright(sample: str, degrees: int) -> None:
    upright = decode_picture((SAMPLES / f"{sample}.jpg").read_bytes())
    (before,) = find_faces(turned(upright, 0))

    (face,) = find_faces(turned(upright, degrees))

    assert face.landmarks is not None
    assert before.landmarks is not None
    away = (roll(face.landmarks) - roll(before.landmarks) - degrees + 180) % 360 - 180
    assert abs(away) < 12
    crop = crop_face(turned(upright, degrees), face, 112, upright=True)
    (again,) = find_faces(a_picture(Image.fromarray(crop)))
    assert again.landmarks is not None
    assert abs(roll(again.landmarks)) < 15


@pytest.mark.parametrize(
    ("change", "mirrored"),
    [
        pytest.param(Image.Transpose.FLIP_TOP_BOTTOM, True, id="mirrored-upside-down"),
        pytest.param(Image.Transpose.ROTATE_180, False, id="upside-down"),
        pytest.param(Image.Transpose.ROTATE_90, False, id="on-its-side"),
        pytest.param(Image.Transpose.ROTATE_270, False, id="on-the-other-side"),
    ],
)
def test_the_crop_of_a_picture_on_its_side_is_like_that_of_the_upright_one(
    change: Image.Transpose, mirrored: bool
) -> None:
    portrait = a_portrait()
    other = a_picture(Image.fromarray(portrait.pixels).transpose(change))
    (face,), (moved,) = find_faces(portrait), find_faces(other)

    expected = crop_face(portrait, face, 112, upright=True).astype(int)
    crop = crop_face(other, moved, 112, upright=True).astype(int)

    if mirrored:
        expected = expected[:, ::-1]
    assert np.abs(expected - crop).mean() < 0.6 * np.abs(expected[::-1] - crop).mean()


def test_a_turned_face_beside_an_upright_one_of_its_size_is_found() -> None:
    page = Image.new("RGB", (800, 420), "gray")
    page.paste(Image.fromarray(a_portrait(1).pixels), (0, 0))
    page.paste(Image.fromarray(a_portrait(3).pixels).transpose(Image.Transpose.ROTATE_90), (390, 20))

    faces = find_faces(a_picture(page))

    assert sorted(round(abs(roll(face.landmarks or ())), -1) for face in faces) == [0, 90]


@pytest.mark.parametrize("tilt", [0, 12])
def test_a_head_that_is_hardly_tilted_keeps_its_crop_to_the_byte(tilt: int) -> None:
    picture = turned(a_portrait(), tilt)
    (face,) = find_faces(picture)

    assert np.array_equal(crop_face(picture, face, 112, upright=True), crop_face(picture, face, 112))


def test_polygons_of_a_turned_face_lie_on_it() -> None:
    picture = a_picture(Image.fromarray(a_portrait().pixels).transpose(Image.Transpose.ROTATE_180))
    (face,) = find_faces(picture)

    forehead, mouth = outline([Region.FOREHEAD], face), outline([Region.MOUTH], face)

    assert forehead is not None
    assert mouth is not None
    assert min(point.y for point in forehead) > max(point.y for point in mouth)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(lambda p: p, None, id="as-it-is"),
        pytest.param(lambda p: p.convert("L"), None, id="greyscale"),
        pytest.param(lambda p: p.point(lambda value: value // 4), None, id="dim"),
        pytest.param(lambda p: p.convert("1"), Abstain.UNLIKE_TRAINING, id="two-tone"),
        pytest.param(lambda p: p.quantize(8), Abstain.UNLIKE_TRAINING, id="eight-colours"),
        pytest.param(lambda p: p.point(lambda value: value * 4), Abstain.UNLIKE_TRAINING, id="burnt-out"),
        pytest.param(lambda p: p.point(lambda value: value // 16), Abstain.UNLIKE_TRAINING, id="black"),
    ],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_face_shown_as_no_training_set_shows_it_is_not_judged(
    number: int, change: Callable[[Image.Image], Image.Image], reason: Abstain | None
) -> None:
    portrait = a_portrait(number)
    (face,) = find_faces(portrait)

    changed = a_picture(change(Image.fromarray(portrait.pixels)).convert("RGB"))

    assert unjudgeable(changed, face) is reason


def test_a_two_tone_jpeg_is_not_judged_either() -> None:
    portrait = a_portrait()
    (face,) = find_faces(portrait)
    data = io.BytesIO()
    Image.fromarray(portrait.pixels).convert("1").save(data, "JPEG", quality=80)

    assert unjudgeable(decode_picture(data.getvalue()), face) is Abstain.UNLIKE_TRAINING


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_gives_what_torch_gives(window: int, layout: torch.memory_format) -> None:
    for height in range(3, 12):
        cells = torch.randn(2, 4, height, 7).contiguous(memory_format=layout)

        pooled = mtcnn._pooled(cells, window)

        assert torch.equal(pooled, torch.nn.functional.max_pool2d(cells, window, 2, ceil_mode=True))
