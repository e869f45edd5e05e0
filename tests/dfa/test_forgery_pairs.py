"""A bona fide face and its forgery come as files that nothing but the face tells apart."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from moderation.analysis import Technique
from moderation.dfa.bench.estimates import auc
from moderation.dfa.instruct.forgery.pairs import (
    delivered,
    drawn_chain,
    encoded,
    forge,
    mask_through,
    null_edit,
)
from tests.dfa.drawn_faces import a_portrait

SIZE = 112


@pytest.fixture(scope="module")
def files() -> list[tuple[bytes, bytes]]:
    return list(_files())


def _files() -> Iterator[tuple[bytes, bytes]]:
    rng = np.random.default_rng(0)
    portraits = [a_portrait(seed) for seed in range(20)]
    for number in range(120):
        target, source = portraits[number % 20], portraits[(number * 7 + 3) % 20]
        chain = drawn_chain(rng, crop=256, size=SIZE, unit=0.87)
        forgery = forge(list(Technique)[number % 4], target, source, rng)
        pixels = null_edit(target, rng) if number % 2 else target.pixels
        yield encoded(chain, pixels, SIZE), encoded(chain, forgery.pixels, SIZE)


def test_both_of_a_pair_have_the_same_tables_and_size(files: list[tuple[bytes, bytes]]) -> None:
    for bona_fide, forged in files:
        one, other = Image.open(io.BytesIO(bona_fide)), Image.open(io.BytesIO(forged))

        assert one.size == other.size == (SIZE, SIZE)
        assert one.format == other.format
        assert getattr(one, "quantization", None) == getattr(other, "quantization", None)
        assert one.info.keys() == other.info.keys()
    assert {Image.open(io.BytesIO(file)).format for file, _ in files} == {"JPEG", "WEBP", "PNG"}


@pytest.mark.parametrize(
    "measure",
    [
        pytest.param(len, id="bytes"),
        pytest.param(lambda file: Image.open(io.BytesIO(file)).size[0], id="side"),
        pytest.param(
            lambda file: getattr(Image.open(io.BytesIO(file)), "quantization", {0: [0]})[0][0], id="table"
        ),
    ],
)
def test_no_property_of_the_file_tells_which_is_forged(measure, files: list[tuple[bytes, bytes]]) -> None:
    values = np.array([measure(file) for pair in files for file in pair], dtype=float)
    forged = np.array([label for _ in files for label in (False, True)])

    assert auc(values, forged) == pytest.approx(0.5, abs=0.1)


def test_a_chain_does_the_same_to_whatever_goes_through_it() -> None:
    chain = drawn_chain(np.random.default_rng(3), crop=256, size=SIZE, unit=0.87)
    pixels = a_portrait(1).pixels

    once, again = delivered(chain, pixels, SIZE), delivered(chain, pixels.copy(), SIZE)

    np.testing.assert_array_equal(once, again)


def test_the_mask_goes_where_the_picture_goes() -> None:
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[60:120, 140:200] = 255

    for seed in range(8):
        chain = drawn_chain(np.random.default_rng(seed), crop=256, size=SIZE, unit=0.87)
        seen = delivered(chain, pixels, SIZE).mean(axis=2)
        mask = mask_through(chain, (pixels[..., 0] > 0).astype(np.float32), SIZE)

        assert np.corrcoef(seen.ravel(), mask.ravel())[0, 1] > 0.8
