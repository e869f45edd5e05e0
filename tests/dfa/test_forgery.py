"""The lab: what it says about a forgery is what it did."""

import numpy as np
import pytest

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind
from moderation.dfa.instruct.filters import supported
from moderation.dfa.instruct.forgery.edit import skin_smoothed
from moderation.dfa.instruct.forgery.masks import PARTS, outline_mask, part_mask, region_changes
from moderation.dfa.instruct.forgery.pairs import forge, null_edit
from moderation.dfa.instruct.forgery.swap import other_face, self_blend
from tests.dfa.drawn_faces import a_portrait

every_technique = pytest.mark.parametrize("technique", list(Technique))


@every_technique
def test_a_forgery_is_a_picture_with_a_mask_and_facts(technique: Technique) -> None:
    target, source = a_portrait(1), a_portrait(2)

    forgery = forge(technique, target, source, np.random.default_rng(0))

    assert forgery.technique is technique
    assert forgery.pixels.shape == target.pixels.shape
    assert forgery.pixels.dtype == np.uint8
    assert forgery.mask.shape == target.pixels.shape[:2]
    assert forgery.mask.min() >= 0
    assert 0 < forgery.mask.max() <= 1
    assert forgery.facts
    assert all(0 <= touch.strength <= 1 for touch in forgery.facts)


@every_technique
def test_the_same_seed_gives_the_same_forgery(technique: Technique) -> None:
    target, source = a_portrait(1), a_portrait(2)

    once = forge(technique, target, source, np.random.default_rng(5))
    again = forge(technique, target, source, np.random.default_rng(5))

    np.testing.assert_array_equal(once.pixels, again.pixels)
    np.testing.assert_array_equal(once.mask, again.mask)
    assert once.facts == again.facts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("technique", [Technique.FE, Technique.FR])
def test_nothing_changes_outside_the_mask(technique: Technique, seed: int) -> None:
    target = a_portrait(3)

    forgery = forge(technique, target, a_portrait(4), np.random.default_rng(seed))

    outside = forgery.mask == 0
    np.testing.assert_array_equal(forgery.pixels[outside], target.pixels[outside])
    assert (forgery.pixels[forgery.mask > 0.5] != target.pixels[forgery.mask > 0.5]).any()


@pytest.mark.parametrize("seed", range(6))
def test_another_face_leaves_the_picture_around_it_alone(seed: int) -> None:
    target = a_portrait(3)

    forgery = other_face(target, a_portrait(4), np.random.default_rng(seed))

    outside = forgery.mask == 0
    np.testing.assert_array_equal(forgery.pixels[outside], target.pixels[outside])


@pytest.mark.parametrize("seed", range(8))
@every_technique
def test_every_named_region_lies_under_the_mask(technique: Technique, seed: int) -> None:
    target = a_portrait(5)

    forgery = forge(technique, target, a_portrait(6), np.random.default_rng(seed))

    assert supported(forgery, target.face) == forgery.facts


def test_a_self_blend_names_its_seam() -> None:
    target = a_portrait(7)

    forgery = self_blend(target, np.random.default_rng(1))

    assert forgery.recipe == "self_blend"
    assert (Region.FACE_BOUNDARY, Kind.SEAM) in {(touch.region, touch.kind) for touch in forgery.facts}


@pytest.mark.slow
def test_a_face_in_softer_surroundings_is_called_sharper() -> None:
    """Half of the self-blends change the surroundings, not the face; the words must say which is which."""
    target = a_portrait(7)
    said: set[tuple[bool, Kind]] = set()

    for seed in range(60):
        forgery = self_blend(target, np.random.default_rng(seed))
        face, around = forgery.mask > 0.95, forgery.mask == 0
        if not face.any():
            continue  # translucent
        gain = detail(forgery.pixels) / (detail(target.pixels) + 1)
        if abs(gain[face].mean() - gain[around].mean()) > 0.3:
            sharper = bool(gain[face].mean() > gain[around].mean())
            said |= {(sharper, touch.kind) for touch in forgery.facts}

    assert (True, Kind.SOFTER) not in said
    assert (False, Kind.SHARPER) not in said
    assert {(True, Kind.SHARPER), (False, Kind.SOFTER)} <= said


def detail(pixels: np.ndarray) -> np.ndarray:
    """How much a pixel differs from its neighbours, (S, S)."""
    grey = pixels.astype(float).mean(axis=2)
    return np.abs(grey - np.roll(grey, 1, axis=0)) + np.abs(grey - np.roll(grey, 1, axis=1))


def test_smoothed_skin_leaves_the_eyes_crisp() -> None:
    target = a_portrait(8)

    forgery = skin_smoothed(target, np.random.default_rng(2))

    changes = region_changes(target.pixels, forgery.pixels, target.face)
    assert changes[Region.CHEEKS] > 2 * changes[Region.EYES]


@pytest.mark.parametrize("seed", range(6))
def test_a_null_edit_changes_little(seed: int) -> None:
    target = a_portrait(9)

    edited = null_edit(target, np.random.default_rng(seed))

    inside = outline_mask(target.face) > 0
    change = np.abs(edited.astype(float) - target.pixels)[inside].mean()
    assert change < 6  # grey levels; the drawn grain has a standard deviation of 6


@pytest.mark.parametrize("region", list(PARTS))
def test_every_part_lies_on_the_face(region: Region) -> None:
    face = a_portrait(0).face

    part = part_mask(face, region)

    assert part.any()
    assert (part * outline_mask(face)).sum() > 0.8 * part.sum()


def test_the_mouth_is_below_the_nose_on_a_turned_face() -> None:
    upright = a_portrait(0).face
    turned = type(upright)(size=upright.size, frame=_quarter_turn(upright.frame, upright.size))

    mouth, nose = (
        np.argwhere(part_mask(turned, region)).mean(axis=0) for region in (Region.MOUTH, Region.NOSE)
    )

    assert mouth[1] < nose[1]  # a quarter turn clockwise puts "below" to the left


def _quarter_turn(frame: np.ndarray, size: int) -> np.ndarray:
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    turned = turn @ frame
    turned[0, 2] += size
    return turned
