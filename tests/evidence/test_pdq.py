"""Pixels to hashes: the same picture stays near, another does not, and a face tells a swap from a copy."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from moderation.dfa.gpt.pixels import Picture, decode_picture
from moderation.evidence.gather import Gatherer
from moderation.evidence.options import Options
from moderation.evidence.pdq import look_at, with_faces
from moderation.evidence.words import evidence_from_json, evidence_json
from moderation.likeness import NEAR, Faces, Likeness, compare_faces, distance, from_hex

#: Where the face of the first portrait is, about: left, top, right, bottom.
FACE = (90, 60, 240, 240)


#: As `pdqhash` 0.2.8, the binding of Meta's own code, hashes the samples; and the quality it gives.
KNOWN = {
    "portrait-1.jpg": ("9da6679c458e8e60879968d23e199659f2799e79699869e18726e1a62666959e", 100),
    "portrait-2.jpg": ("8367f1c66927f9660799e1962cba961d36e1da18f8ce69618d8603721686fe96", 100),
    "portrait-3.jpg": ("f2752d83cc36b3791cc26d37f0d224c2cb2db2d8698bdb2cb4d35925663419c3", 100),
    "forged-eyes.jpg": ("f27c2d83ce34b3790cc24db7b0c264c2cb2fb6d8698bc66cb8d36d25263419d3", 100),
    "no-face.jpg": ("9966726e462bacc121d61327fc68eacd001f7d50d7e60daca89900475d7e3ff8", 53),
}


def portrait(samples: Path, number: int) -> Image.Image:
    return Image.open(samples / f"portrait-{number}.jpg").convert("RGB").resize((328, 400))


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def swapped(image: Image.Image, other: Image.Image) -> Image.Image:
    """The simplest swap there is: an oval of another face, laid over."""
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).ellipse(FACE, fill=255)
    return Image.composite(other, image, mask)


def seen(image: Image.Image) -> Likeness:
    found = look_at(np.asarray(image))
    assert found is not None
    return with_faces(found, [np.asarray(image.crop(FACE))])


@pytest.mark.parametrize(("name", "known"), KNOWN.items())
def test_hashes_are_those_of_metas_own_code(samples: Path, name: str, known: tuple[str, int]) -> None:
    found = look_at(np.asarray(Image.open(samples / name).convert("RGB")))

    assert found is not None
    # Rounding of another machine may turn a bit that lies at the median.
    assert distance(found.frame, from_hex(known[0])) <= 2
    assert found.quality == known[1]


def test_a_large_picture_has_the_hash_of_its_reduced_copy(samples: Path) -> None:
    """It is reduced in strips. The last strip is narrower, and so is the last row of blocks."""
    large = portrait(samples, 1).resize((2501, 3003))

    assert look_at(np.asarray(large)) == look_at(np.asarray(large.reduce(3003 // 256)))


def test_a_picture_saved_again_is_near_and_has_the_same_face(samples: Path) -> None:
    one = portrait(samples, 1)
    ours, theirs = seen(one), seen(saved(one, 60))

    assert distance(ours.frame, theirs.frame) <= NEAR
    assert compare_faces(ours.faces, theirs.faces)[0] is Faces.SAME


def test_a_picture_with_another_face_is_near_and_its_face_is_not(samples: Path) -> None:
    one = portrait(samples, 1)
    ours, theirs = seen(one), seen(saved(swapped(one, portrait(samples, 2)), 90))

    assert compare_faces(ours.faces, theirs.faces)[0] is Faces.OTHER
    assert distance(ours.frame, theirs.frame) <= NEAR


def test_another_picture_is_not_near(samples: Path) -> None:
    assert distance(seen(portrait(samples, 1)).frame, seen(portrait(samples, 2)).frame) > NEAR


def test_the_mirrored_hash_is_that_of_the_mirrored_picture(samples: Path) -> None:
    one = portrait(samples, 1)
    turned = one.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    assert distance(seen(one).mirrored, seen(turned).frame) <= 2


@pytest.mark.parametrize("side", [200, 700, 2100])
def test_a_large_picture_is_hashed_like_a_small_one(samples: Path, side: int) -> None:
    one = portrait(samples, 1)

    assert distance(seen(one).frame, seen(one.resize((side, side))).frame) <= NEAR


def test_a_picture_with_nothing_in_it_has_no_hash() -> None:
    assert look_at(np.full((300, 300, 3), 127, np.uint8)) is None


def test_it_comes_with_the_evidence_from_where_pictures_are_decoded(samples: Path) -> None:
    data = (samples / "portrait-1.jpg").read_bytes()
    picture: Picture = decode_picture(data)

    evidence = Gatherer(Options()).gather(data, picture)

    assert evidence.likeness == look_at(picture.pixels)
    assert evidence_from_json(evidence_json(evidence)) == evidence


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"frame": "00", "mirrored": "0" * 64, "quality": 90}, id="no hash"),
        pytest.param({"frame": "0" * 64, "mirrored": "0" * 64, "quality": 10}, id="too little in it"),
        pytest.param({"frame": "0" * 64, "mirrored": "0" * 64, "quality": 10**9}, id="more than all"),
        pytest.param({"frame": 5, "mirrored": "0" * 64, "quality": 90}, id="a number"),
        pytest.param([], id="a list"),
    ],
)
def test_what_a_hostile_child_says_is_not_believed(said: object) -> None:
    with pytest.raises(ValueError, match=r"digits|too little|not evidence"):
        evidence_from_json({"facts": [], "seconds": 0.1, "likeness": said})
