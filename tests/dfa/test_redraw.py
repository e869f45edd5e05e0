"""Faces drawn again: alike to the eye, unlike in the grain, and the same for the same seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moderation.dfa.instruct.forgery.redraw import (
    REDRAWERS,
    Redrawer,
    RedrawerConfig,
    Rise,
    as_input,
    redrawers,
    redrawn,
    save_redrawers,
)
from moderation.dfa.train.redrawers import train_redrawers, unlikeness

SAMPLES = Path(__file__).parents[2] / "moderation" / "samples"
PORTRAIT = SAMPLES / "portrait-1.jpg"


def a_face(side: int = 256) -> np.ndarray:
    return np.asarray(Image.open(PORTRAIT).convert("RGB").resize((side, side)))


def fine(pixels: np.ndarray) -> np.ndarray:
    """What differs between neighbours."""
    return np.abs(np.diff(pixels.astype(np.float32), axis=1))


@pytest.mark.parametrize("seed", range(6))
def test_a_face_drawn_again_shows_the_same_with_another_grain(seed: int) -> None:
    face = a_face()

    drawn = redrawn(face, np.random.default_rng(seed))

    assert (drawn.shape, drawn.dtype) == (face.shape, np.uint8)
    change = np.abs(drawn.astype(np.float32) - face)
    other = np.abs(face[::-1].astype(np.float32) - face)
    assert 0.5 < change.mean() < other.mean() / 4
    assert np.abs(fine(drawn) - fine(face)).mean() > 0.5


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    face = a_face()

    once, again, other = (redrawn(face, np.random.default_rng(seed)) for seed in (3, 3, 4))

    np.testing.assert_array_equal(once, again)
    assert (once != other).any()


def test_the_shipped_decoders_are_those_that_the_code_describes() -> None:
    assert {name: model.config for name, model in redrawers().items()} == dict(REDRAWERS)


@pytest.mark.parametrize("rise", ["transposed", "nearest", "bilinear", "shuffled"])
@pytest.mark.parametrize("depth", [2, 3])
def test_every_way_up_ends_at_the_size_it_began_with(rise: Rise, depth: int) -> None:
    model = Redrawer(RedrawerConfig(depth=depth, code=4, rise=rise, width=4))

    assert model(torch.zeros(2, 3, 48, 32)).shape == (2, 3, 48, 32)


def test_training_learns_and_what_is_written_is_what_was_learnt(tmp_path: Path) -> None:
    configs = {"small": RedrawerConfig(depth=2, code=8, rise="nearest", width=8)}
    wanted = as_input(a_face(128)[None])
    torch.manual_seed(0)
    before = unlikeness(Redrawer(configs["small"])(wanted), wanted)
    heard: list[str] = []

    models = train_redrawers([PORTRAIT], steps=30, configs=configs, say=heard.append)
    save_redrawers(models, tmp_path / "small.safetensors")
    read = redrawers(tmp_path / "small.safetensors")

    with torch.inference_mode():
        learnt = models["small"](wanted)
        assert unlikeness(learnt, wanted) < 0.9 * before
        torch.testing.assert_close(read["small"](wanted), learnt, rtol=0, atol=0.02)
    assert [line.split(",")[0] for line in heard] == ["small: step 30 of 30"]
