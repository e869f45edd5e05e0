"""What decodes in process decodes in a child, to the same pixels: it has all it needs, and opens nothing."""

from collections.abc import Iterator

import numpy as np
import pytest

from moderation.dfa.gpt.pixels import PixelLimits, decode_picture
from moderation.errors import ImageRejected
from tests.files import animated, burdened, coloured, profiled, stored_otherwise
from worker.decoding import DecodePool

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMITS = PixelLimits(heic=True)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    opened = DecodePool(LIMITS, children=1, seconds=30)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "corpus",
    [animated, burdened, coloured, profiled, stored_otherwise],
    ids=lambda module: module.__name__.rpartition(".")[2],
)
def test_a_child_decodes_every_file_as_it_is_decoded_here(pool: DecodePool, corpus: object) -> None:
    for name, data in corpus.files():  # pyright: ignore[reportAttributeAccessIssue]
        try:
            here = decode_picture(data, LIMITS)
        except ImageRejected as refusal:
            with pytest.raises(type(refusal)):
                pool.decode(data)
            continue

        there = pool.decode(data)

        assert there.facts == here.facts, name
        np.testing.assert_array_equal(there.pixels, here.pixels, name)


@pytest.mark.parametrize(("width", "height"), [(8160, 6144), (8192, 6144), (9280, 6944)])
def test_what_the_largest_phones_write_is_within_the_limit(width: int, height: int) -> None:
    assert width * height <= LIMITS.max_pixels


def test_no_picture_of_any_colour_is_refused() -> None:
    for name, data in stored_otherwise.files():
        assert decode_picture(data, LIMITS).pixels.shape == (48, 64, 3), name
