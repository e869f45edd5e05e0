"""What is hidden, where, and what is concluded from it. That scores are those of the engine is tested with it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moderation.analysis import Artifact, Box, Effect, Face, FaceAnalysis, Label, Point, Region, Verdict
from moderation.dfa.gpt.bundle import BundleSpec
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.effect import (
    Filler,
    Hidden,
    control_for,
    face_mask,
    hide,
    mask_of,
    variants,
    with_effects,
)
from moderation.dfa.gpt.foreign import foreign_map
from moderation.dfa.gpt.pixels import Picture, PictureFacts, crop_corners, crop_face, in_crop
from moderation.dfa.gpt.policy import Policy
from tests.dfa.conftest import a_picture

SIZE = 224
FACE = Face(
    Box(0, 0, 172, 172), 0.9, (Point(60, 70), Point(112, 70), Point(86, 100), Point(66, 126), Point(106, 126))
)


def a_crop(face: Face = FACE) -> FaceCrop:
    return FaceCrop(face, a_picture(SIZE))


def an_artifact(*regions: Region) -> Artifact:
    return Artifact(", ".join(regions), "It is odd.", regions)


def said(*artifacts: Artifact, **verdict: Any) -> FaceAnalysis:
    values: dict[str, Any] = {"label": Label.DEEPFAKE, "score": 0.97, "margin": 3.5, **verdict}
    return FaceAnalysis(FACE, Verdict(**values), artifacts)


@pytest.mark.parametrize("degrees", [0, 10, 40, 90, 160, 270], ids=lambda d: f"turned by {d}")
def test_a_point_of_the_picture_is_found_in_the_crop(degrees: int) -> None:
    turn, middle = np.exp(1j * np.radians(degrees)), 200 + 200j
    at = [middle + turn * complex(x, y) for x, y in ((-25, -15), (25, -15), (0, 12), (-18, 35), (18, 35))]
    marks = tuple(Point(one.real, one.imag) for one in at)
    face = Face(Box(140, 140, 260, 260), 0.9, (marks[0], marks[1], marks[2], marks[3], marks[4]))
    pixels = np.zeros((400, 400, 3), dtype=np.uint8)
    spot = middle + turn * complex(-25, -15)
    pixels[round(spot.imag) - 2 : round(spot.imag) + 3, round(spot.real) - 2 : round(spot.real) + 3] = 255
    picture = Picture(pixels, PictureFacts("", 0, "PNG", 400, 400))

    crop = crop_face(picture, face, SIZE, upright=True)[..., 0].astype(float)

    ((x, y),) = in_crop(face, SIZE, [marks[0]])
    rows, columns = np.indices(crop.shape)
    seen = (crop * columns).sum() / crop.sum() + 0.5, (crop * rows).sum() / crop.sum() + 0.5
    assert seen == pytest.approx((x, y), abs=2.5)
    corners = in_crop(face, SIZE, crop_corners(face))
    assert [tuple(round(value) for value in corner) for corner in corners] == [
        (0, 0),
        (SIZE, 0),
        (SIZE, SIZE),
        (0, SIZE),
    ]


@pytest.mark.parametrize(
    "region",
    [
        Region.EYES,
        Region.NOSE,
        Region.MOUTH,
        Region.CHEEKS,
        Region.JAWLINE,
        Region.FACE_BOUNDARY,
        Region.SKIN,
    ],
)
def test_a_control_is_as_large_lies_on_the_face_and_apart_from_the_region(region: Region) -> None:
    crop = a_crop()
    mask = mask_of(an_artifact(region), crop)
    assert mask is not None

    control = control_for(mask, crop, named=[mask])

    assert control is not None
    assert control.sum() == mask.sum()
    assert not (control & mask).any()
    assert not (control & ~face_mask(crop)).any()


def test_a_control_keeps_out_of_what_else_is_named_where_it_can() -> None:
    crop = a_crop()
    nose, mouth = (mask_of(an_artifact(region), crop) for region in (Region.NOSE, Region.MOUTH))
    assert nose is not None
    assert mouth is not None

    alone, beside = (control_for(nose, crop, named=named) for named in ([nose], [nose, mouth]))

    assert alone is not None
    assert beside is not None
    assert not (beside & mouth).any()


def test_a_region_that_leaves_no_room_for_a_control_has_no_effect() -> None:
    everywhere = an_artifact(Region.SKIN, Region.FACE_BOUNDARY, Region.EYES, Region.NOSE)

    assert hide(a_crop(), said(everywhere), at_most=3) == ()


def test_what_has_no_place_is_left_out_and_the_next_one_measured() -> None:
    face = said(an_artifact(Region.LIGHTING), an_artifact(Region.MOUTH), an_artifact(Region.EYES))

    (hidden,) = hide(a_crop(), face, at_most=1)

    assert hidden.place == 1


@pytest.mark.parametrize(
    "face",
    [
        pytest.param(said(an_artifact(Region.MOUTH), label=Label.BONA_FIDE, score=0.1), id="bona fide"),
        pytest.param(said(an_artifact(Region.MOUTH), margin=None), id="never asked"),
        pytest.param(said(), id="no artifacts"),
    ],
)
def test_nothing_is_hidden_where_there_is_nothing_to_explain(face: FaceAnalysis) -> None:
    assert hide(a_crop(), face, at_most=3) == ()


def test_without_landmarks_nothing_is_hidden() -> None:
    assert hide(a_crop(replace(FACE, landmarks=None)), said(an_artifact(Region.MOUTH)), at_most=3) == ()


def test_every_fill_changes_the_region_and_leaves_what_is_far_from_it() -> None:
    crop = a_crop()
    mask = mask_of(an_artifact(Region.MOUTH), crop)
    assert mask is not None
    rows = np.flatnonzero(mask.any(axis=1))

    filled = Filler(crop.pixels).fills(mask, ~mask)

    assert len(filled) == 3
    for picture in filled:
        assert picture.dtype == np.uint8
        assert np.abs(picture[mask].astype(int) - crop.pixels[mask]).mean() > 10
        assert np.array_equal(picture[: rows[0] - 12], crop.pixels[: rows[0] - 12])
    assert {tuple(pixel) for pixel in filled[2][mask][:5]} == {(127, 127, 127)}


def test_nothing_is_filled_for_a_tower_that_leaves_hidden_pixels_out() -> None:
    crop = a_crop()

    (hidden,) = hide(crop, said(an_artifact(Region.MOUTH)), at_most=1, filled=False)

    assert hidden.without == hidden.control == (crop.pixels,)
    asked = variants(crop, [hidden])
    assert [variant.hidden is hidden.region for variant in asked] == [True, False]
    assert all(variant.verdict_only for variant in asked)


def test_what_flows_in_is_as_bright_as_its_surroundings_and_has_their_grain() -> None:
    crop = FaceCrop(FACE, np.full((SIZE, SIZE, 3), 90, dtype=np.uint8))
    grain = np.random.default_rng(0).integers(-4, 5, crop.pixels.shape)
    pixels = (crop.pixels + grain).astype(np.uint8)
    mask = mask_of(an_artifact(Region.NOSE), crop)
    assert mask is not None
    pixels[mask] = 240

    diffused = Filler(pixels).fills(mask, ~mask)[0][mask].astype(float)

    assert diffused.mean() == pytest.approx(90, abs=3)
    assert 0.5 < diffused.std() < 4


def test_an_effect_is_the_mean_over_the_ways_to_hide() -> None:
    nothing = np.zeros((1, 1, 3), dtype=np.uint8)
    mask = np.zeros((1, 1), dtype=bool)
    hidden = Hidden(1, (nothing, nothing), (nothing, nothing), mask, mask)
    face = said(an_artifact(Region.EYES), an_artifact(Region.MOUTH))

    measured = with_effects(face, [hidden], iter([1.0, -1.0, 3.0, 3.4]), lambda margin: margin / 10)

    assert measured.rationale[0].effect is None
    effect = measured.rationale[1].effect
    assert effect is not None
    assert (effect.score_without, effect.margin_fall) == (0.0, 3.5)
    assert (effect.control_score, effect.control_fall) == pytest.approx((0.32, 0.3))


@pytest.mark.parametrize(
    ("fall", "control", "supported"),
    [
        pytest.param(2.0, 0.3, True, id="more than the control's"),
        pytest.param(0.3, 0.3, False, id="as much as the control's"),
        pytest.param(0.32, 0.3, False, id="more by no more than noise"),
        pytest.param(-0.2, -1.0, False, id="the score rises"),
    ],
)
def test_only_what_falls_more_than_the_control_is_supported(
    fall: float, control: float, supported: bool
) -> None:
    assert Effect(0.5, fall, 0.5, control).supported is supported


def test_variants_are_asked_for_their_verdict_alone_and_measured_in_one_go(tiny: BundleSpec) -> None:
    detector = Detector.load(
        tiny.folder, device="cpu", policy=Policy(minimum_mass=0, early_exit=0, threshold=0)
    )
    size = detector.image_size
    face = replace(FACE, box=Box(0, 0, size / 1.3, size / 1.3), landmarks=_scaled(size))
    crop = FaceCrop(face, a_picture(size))
    (found,) = detector.analyze([crop])
    artifacts = (an_artifact(Region.MOUTH), an_artifact(Region.EYES))
    found = replace(
        found,
        face=face,
        rationale=artifacts,
        verdict=replace(found.verdict, label=Label.DEEPFAKE, abstain=None),
    )

    (measured,) = detector.measure([crop], [found], at_most=2)

    alone = detector.analyze([variants(crop, hide(crop, found, at_most=2))[0]])[0]
    assert alone.reply is None
    assert alone.verdict.technique_scores is None
    for artifact in measured.rationale:
        assert artifact.effect is not None
        assert artifact.effect.score_without == pytest.approx(
            detector.score((found.verdict.margin or 0) - artifact.effect.margin_fall)
        )


def _scaled(size: int) -> tuple[Point, Point, Point, Point, Point]:
    assert FACE.landmarks is not None
    one, two, three, four, five = (Point(p.x * size / SIZE, p.y * size / SIZE) for p in FACE.landmarks)
    return one, two, three, four, five


def test_a_map_is_kept_small_and_names_where_it_is_highest() -> None:
    values = np.zeros((14, 14), dtype=np.float32)
    values[9:] = 0.9

    found = foreign_map(FACE, values)

    assert (found.side, len(found.values)) == (14, 196)
    assert max(found.values) == 230
    assert Region.MOUTH in found.highest
    assert Region.EYES not in found.highest
    assert foreign_map(FACE, values * 0).highest == ()
    assert foreign_map(replace(FACE, landmarks=None), values).highest == ()
